"""What a step costs on this host: latency, memory and time by operator."""
