"""Methods that train the base's own weights."""
