"""What clients ask and are told, in OpenAI's words: read, checked, and written. Nothing here knows of HTTP."""
