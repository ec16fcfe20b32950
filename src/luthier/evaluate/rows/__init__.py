"""The page on rows: what they are, what steps made of them, and why rows are not there any more."""

from luthier.evaluate.rows.page import write_data_page

__all__ = ["write_data_page"]
