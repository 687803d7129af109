"""The shared reservation core: who may use how many units, and how they come back."""
