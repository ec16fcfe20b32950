"""The models beside the one that trains, and what is remembered of them."""
