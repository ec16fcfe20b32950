"""Files in pieces that can be read apart, by processes of their own: together they give what the file gives."""
