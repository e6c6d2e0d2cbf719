//! Addresses as people write them.

use std::net::{IpAddr, SocketAddr};

use lb_common::{Addr, Port, Protocol, SocketKey};

/// Reads `ADDR:PORT[/PROTO]`, IPv6 in brackets; TCP where no protocol is given.
pub fn socket_key(text: &str) -> Result<SocketKey, String> {
    let (socket, protocol) = match text.rsplit_once('/') {
        Some((socket, protocol)) => (socket, parse_protocol(protocol)?),
        None => (text, Protocol::Tcp),
    };
    let socket: SocketAddr =
        socket.parse().map_err(|_| format!("{socket:?} is not ADDR:PORT (IPv6 in brackets, such as [fd00::1]:80)"))?;
    if socket.port() == 0 {
        return Err("port 0 is not used".into());
    }
    Ok(SocketKey::new(socket, protocol))
}

fn parse_protocol(text: &str) -> Result<Protocol, String> {
    match text.to_ascii_uppercase().as_str() {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        _ => Err(format!("{text:?} is not a protocol: TCP or UDP")),
    }
}

/// A client, with its port where known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: Option<Port>,
}

/// `ADDR` or `ADDR:PORT`.
impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.addr.ip(), port.number()).fmt(f),
            None => self.addr.ip().fmt(f),
        }
    }
}

/// Reads `ADDR[:PORT]`, IPv6 in brackets where a port follows.
pub fn client(text: &str) -> Result<Client, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(Client { addr: ip.into(), port: None });
    }
    let socket: SocketAddr =
        text.parse().map_err(|_| format!("{text:?} is not ADDR or ADDR:PORT (IPv6 with a port in brackets)"))?;
    Ok(Client { addr: socket.ip().into(), port: Some(Port::new(socket.port())) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_read_and_written_alike() {
        for (text, written) in [
            ("10.0.0.1:80", "10.0.0.1:80/TCP"),
            ("10.0.0.1:53/udp", "10.0.0.1:53/UDP"),
            ("[fd00::1]:443/TCP", "[fd00::1]:443/TCP"),
        ] {
            assert_eq!(socket_key(text).unwrap().to_string(), written);
        }
    }

    #[test]
    fn what_is_no_socket_says_what_is_wrong() {
        for (text, reason) in [
            ("10.0.0.1", "not ADDR:PORT"),
            ("fd00::1:80", "not ADDR:PORT"),
            ("10.0.0.1:80/sctp", "TCP or UDP"),
            ("10.0.0.1:0", "port 0"),
            ("web:80", "not ADDR:PORT"),
        ] {
            let error = socket_key(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn clients_may_have_a_port() {
        for text in ["10.1.2.3", "10.1.2.3:4000", "fd00::9", "[fd00::9]:4000"] {
            assert_eq!(client(text).unwrap().to_string(), text);
        }
        assert_eq!(client("10.1.2.3").unwrap().port, None);
        assert!(client("10.1.2.3:x").is_err());
    }
}
