"""Programs built on the packages: demo, channel emulator, captures, benchmarks. Internal: not an API."""
