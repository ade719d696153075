//! Pods made of network namespaces: the demo and the end-to-end tests.
