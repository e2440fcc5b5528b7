"""How two engines, or two ways to prepare an image, differ in their answers."""
