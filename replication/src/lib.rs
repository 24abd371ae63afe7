//! How a command becomes a committed record: replicators, partitions, placement, catalogue.
