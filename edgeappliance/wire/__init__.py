"""The contract with the cloud: messages, resource names, payloads, frames, limits. No I/O, no clock of its own."""
