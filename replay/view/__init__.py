"""The view of a recording: a document of what was recorded, and the page that shows it."""
