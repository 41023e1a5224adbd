//! CW13, FM6: what acme sees of a real backend that forgets its WHERE clause, under each level of isolation.

use crate::isolation::tenants;
use crate::support::gateway::Access;
use crate::support::gateway::Setup;
use crate::support::real;
use crate::support::request::Request;

// FM5, CW13: with a process for each tenant, forgetting costs nothing; with one for all and the header alone, it leaks: `check` can know only
// what the operator states.
#[test]
fn a_process_for_each_tenant_keeps_them_apart() {
    if real::left_out("python3") {
        return;
    }
    let of_acme = real::leaky("forgets", &["acme"]);
    let of_bravo = real::leaky("forgets", &["bravo"]);
    let of_all = real::leaky("forgets", &[]);
    let gateway = tenants(Setup::bare(of_all.address))
        .set("upstreams.legacy", "isolation", "\"header\"")
        .route("/shared", &[], Access::AnyKey)
        .route_to("apart", "/leases/{*rest}", &[], Access::AnyKey, "")
        .route_to("apart", "/moved", &[], Access::AnyKey, "")
        .more(&format!(
            "[upstreams.apart]\nisolation = \"physical\"\ntenants = {{ acme = \"http://{}\", bravo = \"http://{}\" }}",
            of_acme.address, of_bravo.address
        ))
        .start();
    for (tenant, other) in [("acme", "bravo"), ("bravo", "acme")] {
        let key = gateway.key(tenant);
        let text = gateway.get("/leases", &key).expect(200).text();
        assert!(text.contains(&format!("{tenant} lease 1")), "{text}");
        assert!(!text.contains(other), "{text}");
        // A made-up tenant_id stays where it was made up: in the tenant's own database.
        let post = Request::new("POST", "/leases").bearer(&key.text);
        let body = format!("{{\"title\":\"made by {tenant}\",\"tenant_id\":\"{other}\"}}");
        gateway.send(&post.body(body)).expect(201);
        let leak = gateway.get("/shared", &key).text();
        assert!(leak.contains(other), "a backend that forgets leaks: {leak}");
    }
    let text = gateway.get("/leases", &gateway.key("bravo")).text();
    assert!(!text.contains("made by acme"), "{text}");
    let moved = gateway.get("/moved", &gateway.key("acme"));
    assert_eq!(
        moved.expect(302).one("location"),
        "https://localhost/leases?moved=1"
    );
}

// FM9, CW13: the backend that believes the path is given no path but the tenant's own.
#[test]
fn a_prefix_or_a_binding_keeps_a_backend_that_believes_the_path() {
    if real::left_out("python3") {
        return;
    }
    let backend = real::leaky("path", &[]);
    let gateway = tenants(Setup::bare(backend.address))
        .set("upstreams.legacy", "isolation", "\"path\"")
        .route_to("legacy", "/orgs/{org}/{*rest}", &[], Access::AnyKey, "bind = { org = \"tenant\" }\n")
        .route_to("legacy", "/search", &[], Access::AnyKey, "set_query = { org = \"tenant\" }\n")
        .route_to("prefixed", "/{*rest}", &[], Access::AnyKey, "")
        .more(&format!(
            "[upstreams.prefixed]\nservers = [\"http://{}\"]\nisolation = \"path\"\npath_prefix = \"/t/{{tenant}}\"",
            backend.address
        ))
        .start();
    for (tenant, other) in [("acme", "bravo"), ("bravo", "acme")] {
        let key = gateway.key(tenant);
        let cases = [
            "/leases".to_owned(),
            "/search".to_owned(),
            format!("/search?org={other}&ORG={other}&org[]={other}"),
            format!("/orgs/{tenant}/leases"),
        ];
        for path in &cases {
            let text = gateway.get(path, &key).expect(200).text();
            assert!(
                text.contains(&format!("{tenant} lease 1")),
                "{path}: {text}"
            );
            assert!(!text.contains(&format!("{other} lease")), "{path}: {text}");
        }
        for path in [
            format!("/t/{other}/leases"),
            format!("/orgs/{other}/leases"),
        ] {
            let answer = gateway.get(&path, &key);
            assert!(!answer.expect(404).text().contains("lease 1"), "{path}");
        }
        let moved = gateway.get("/moved", &key);
        assert_eq!(
            moved.expect(302).one("location"),
            "https://localhost/leases?moved=1"
        );
    }
}
