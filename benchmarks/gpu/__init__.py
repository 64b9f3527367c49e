"""One command that measures tokentape on a GPU in minutes, and the page made from its figures."""
