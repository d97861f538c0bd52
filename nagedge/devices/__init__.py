"""Where a runtime runs: this host, and devices that are emulated or attached."""
