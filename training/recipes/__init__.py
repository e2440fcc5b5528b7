"""How a run is trained: the fields (``recipe``), the recipes by name (``named``), what few images change in them."""
