//! How service ports are named in the kernel.

use lb_common::Protocol;

use crate::model::ServiceId;

/// The name under which a service port stands in the `names` map.
pub fn service_name(id: &ServiceId, port_name: &str) -> String {
    format!("{}/{}/{}/{port_name}", id.namespace, id.name, id.port)
}

/// The service port of a name, and its port's name.
pub fn service_id(name: &str, protocol: Protocol) -> Option<(ServiceId, String)> {
    let mut parts = name.splitn(4, '/').map(str::to_owned);
    let (namespace, name) = (parts.next()?, parts.next()?);
    let port = parts.next()?.parse().ok()?;
    Some((ServiceId { namespace, name, port, protocol }, parts.next().unwrap_or_default()))
}
