"""What a store says of its models beside what SDM-W decides: plain values, and no judgement."""
