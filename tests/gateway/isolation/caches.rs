//! FM5 before a real shared cache: nginx with `proxy_cache` between the clients and the gateway.

use std::net::SocketAddr;

use crate::isolation::tenants;
use crate::support::client::Http1;
use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::real;
use crate::support::real::Backend;
use crate::support::request::Answer;
use crate::support::request::Request;

struct Chain {
    _backend: Backend,
    gateway: Gateway,
    cache: Backend,
}

fn chain() -> Option<Chain> {
    if real::left_out("python3") || real::left_out("nginx") {
        return None;
    }
    let backend = real::leaky("header", &[]);
    let gateway = tenants(Setup::bare(backend.address))
        .set("upstreams.legacy", "isolation", "\"header\"")
        .route("/leases/{*rest}", &[], Access::AnyKey)
        .route("/dated", &[], Access::AnyKey)
        .route("/shared", &[], Access::AnyKey)
        .start();
    let cache = real::nginx_cache(gateway.https());
    Some(Chain {
        _backend: backend,
        gateway,
        cache,
    })
}

fn ask(cache: SocketAddr, path: &str, credential: Option<(&str, &str)>) -> Answer {
    let request = Request::get(path).header("Connection", "close");
    let request = match credential {
        Some((name, value)) => request.header(name, value),
        None => request,
    };
    Http1::plain(cache).exchange(&request)
}

// FM5: the same address with key A, then with key B: two hits, two bodies, whatever the backend says of caches and wherever the key
// stands; a stranger gets neither.
#[test]
fn a_shared_cache_serves_nobody_anothers_answer() {
    let Some(chain) = chain() else {
        return;
    };
    let at = chain.cache.address;
    let (acme, bravo) = (chain.gateway.key("acme"), chain.gateway.key("bravo"));
    // Proof that the cache caches: what is the same for everybody.
    for path in ["/leases", "/dated", "/shared"] {
        for header in ["Authorization", "X-API-Key"] {
            let credential = |key: &str| match header {
                "Authorization" => format!("Bearer {key}"),
                _ => key.to_owned(),
            };
            let mut hits = Vec::new();
            for (key, own, other) in [
                (&acme, "acme lease", "bravo lease"),
                (&bravo, "bravo lease", "acme lease"),
            ] {
                let answer = ask(at, path, Some((header, &credential(&key.text))));
                let text = answer.expect(200).text();
                assert!(
                    text.contains(own) && !text.contains(other),
                    "{path} {header}: {text}"
                );
                hits.push(answer.number("x-hits"));
            }
            assert_ne!(hits[0], hits[1], "{path} {header}: one answer for both");
            ask(at, path, None).expect(401);
            let again = ask(at, path, Some((header, &credential(&acme.text))));
            assert!(again.text().contains("acme lease"), "{path} {header}");
            // Public to the backend is public to the holder of one key.
            let kept = if path == "/shared" { "HIT" } else { "MISS" };
            assert_eq!(again.one("x-cache"), kept, "{path} {header}");
        }
    }
}

// FM5: a 404 of the gateway that a cache kept would hide the thing from its owner.
#[test]
fn refusals_are_not_kept_either() {
    let Some(chain) = chain() else {
        return;
    };
    let acme = format!("Bearer {}", chain.gateway.key("acme").text);
    for path in ["/nowhere", "/leases/nosuch"] {
        for _ in 0..2 {
            let answer = ask(chain.cache.address, path, Some(("Authorization", &acme)));
            assert_eq!(answer.expect(404).one("x-cache"), "MISS", "{path}");
        }
    }
}
