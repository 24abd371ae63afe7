//! The etcd API, generated from `proto/etcd.proto`.
#![allow(missing_docs, unreachable_pub, clippy::all)]

tonic::include_proto!("etcdserverpb");
