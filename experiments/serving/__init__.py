"""Predictions of serving beside measured rows: reading, answering, fitting engines' constants, the page of errors."""
