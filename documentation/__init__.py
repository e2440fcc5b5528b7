"""``make docs``: the site of docs/, with pages that are generated from the code. Not part of the package."""
