"""What every self-contained HTML page is made with: the templates' environment, the styles, pictures inside a page."""
