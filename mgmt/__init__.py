"""Storage arrays with their remote copy, measuring devices, the management station, and its faces."""
