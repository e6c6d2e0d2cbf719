//! Real traffic through the real `weir` in network namespaces.

mod support;
