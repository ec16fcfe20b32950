"""Web pages and documents to text, and to questions with their answers where a page has them."""
