//! The files of `examples/`: each reproduces what one API documents, walked row by row before recording backends.

mod council;
mod fairplace;
mod fanfare;
mod propertybase;

use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::request::Request;

/// The status of each of these requests, in order, with this key on this host.
fn statuses(gateway: &Gateway, host: &str, key: &Key, requests: &[(&str, &str)]) -> Vec<u16> {
    let mut client = gateway.connect();
    requests
        .iter()
        .map(|(method, path)| {
            let request = Request::new(method, path).host(host).bearer(&key.text);
            client.exchange(&request).status
        })
        .collect()
}

/// Every scope of a profile with one request that it opens: a key of one scope passes on the diagonal alone.
fn only_the_diagonal(gateway: &Gateway, host: &str, tenant: &str, rows: &[(&str, &str, &str)]) {
    let requests: Vec<(&str, &str)> = rows
        .iter()
        .map(|(_, method, path)| (*method, *path))
        .collect();
    for (held, (scope, _, _)) in rows.iter().enumerate() {
        let key = gateway.key_with_scopes(tenant, &[scope]);
        let expected: Vec<u16> = (0..rows.len())
            .map(|at| if at == held { 200 } else { 403 })
            .collect();
        assert_eq!(
            statuses(gateway, host, &key, &requests),
            expected,
            "{scope}"
        );
    }
}
