//! The names behind indexes: what the `names` map says of services and backends.

use lb_common::names::{NAME_BACKEND, NAME_SERVICE, NameKey};

use crate::dataplane::Tables;

/// What a service port is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceLabel {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name, or `#INDEX` where the map has none.
    pub name: String,
    /// The port's number.
    pub port: u16,
    /// The port's name, may be empty.
    pub port_name: String,
}

/// The label of a service index.
pub fn service(tables: &Tables, index: u32) -> ServiceLabel {
    let name = tables.names.get(&NameKey { kind: NAME_SERVICE, index });
    name.and_then(|text| parse(text))
        .unwrap_or_else(|| ServiceLabel { name: format!("#{index}"), ..Default::default() })
}

/// Reads `NAMESPACE/SERVICE/PORT NUMBER/PORT NAME`.
fn parse(text: &str) -> Option<ServiceLabel> {
    let mut parts = text.splitn(4, '/');
    let (namespace, name, port) = (parts.next()?, parts.next()?, parts.next()?);
    Some(ServiceLabel {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        port: port.parse().ok()?,
        port_name: parts.next().unwrap_or_default().to_owned(),
    })
}

/// The node of a backend, if its endpoint names one.
pub fn node(tables: &Tables, backend: u32) -> Option<String> {
    tables.names.get(&NameKey { kind: NAME_BACKEND, index: backend }).filter(|name| !name.is_empty()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_with_and_without_a_port_name() {
        let named = parse("default/web/80/http").unwrap();
        assert_eq!((named.namespace.as_str(), named.name.as_str(), named.port), ("default", "web", 80));
        assert_eq!(named.port_name, "http");
        assert_eq!(parse("default/web/80/").unwrap().port_name, "");
        assert_eq!(parse("default/web/80").unwrap().port_name, "");
        assert_eq!(parse("default/web/http"), None);
    }

    #[test]
    fn a_service_without_a_name_shows_its_index() {
        assert_eq!(service(&Tables::default(), 7).name, "#7");
    }
}
