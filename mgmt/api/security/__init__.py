"""Who may use the station's faces, how often, and what a browser may do with their pages (GAP-22)."""
