//! `resolv.conf(5)`.

use std::net::IpAddr;

use crate::lease::Lease;

/// Adds to a lease what a `resolv.conf` says. Lines that make no sense are
/// passed over, as every resolver does; of several search lists the last counts.
pub(crate) fn read(text: &str, lease: &mut Lease) {
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                // A scope is of the host's interfaces.
                let address = words.next().and_then(|word| word.split('%').next());
                let address: Option<IpAddr> = address.and_then(|word| word.parse().ok());
                lease.name_servers.extend(address);
            }
            Some("search" | "domain") => {
                lease.search_domains = words.map(str::to_owned).collect();
            }
            Some("options") => lease.resolver_options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_domains_and_options_are_read() {
        let mut lease = Lease::new();
        let text = "# made by hand\nnameserver 10.0.0.1\nnameserver fe80::1%eth0 ; here\n\
                    domain old\nsearch a.example b.example\noptions ndots:5 edns0\nnameserver x\n";
        read(text, &mut lease);
        let servers: Vec<IpAddr> = ["10.0.0.1", "fe80::1"]
            .map(|server| server.parse().unwrap())
            .into();
        assert_eq!(lease.name_servers, servers);
        assert_eq!(lease.search_domains, ["a.example", "b.example"]);
        assert_eq!(lease.resolver_options, ["ndots:5", "edns0"]);
    }
}
