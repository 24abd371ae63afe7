//! gRPC services, configuration, the node, and the odgm binary.
