//! What counts as one client where strangers are counted.

use std::net::IpAddr;
use std::net::Ipv6Addr;

/// What counts as one client: an IPv4 address, or an IPv6 /64, since whoever has one address of it has them all.
#[must_use]
pub fn source_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let prefix = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(prefix))
        }
    }
}
