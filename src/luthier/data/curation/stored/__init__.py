"""What curation keeps on the disk of rows: what was measured of them, the rows themselves, what was changed in them."""
