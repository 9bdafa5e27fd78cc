"""What this machine is: devices, GPUs, versions."""
