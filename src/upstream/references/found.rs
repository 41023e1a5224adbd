//! What is to be looked up for a body: each id once, in its order, where the caller would find it.

use http::uri::PathAndQuery;

use crate::gate::Admission;
use crate::model::route::bind::Whom;
use crate::model::route::reference::References;
use crate::upstream::references::Unfit;
use crate::upstream::references::said::Said;
use crate::upstream::references::said::said;

/// One thing to be asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lookup {
    /// Index into the rules' members.
    pub(super) member: usize,
    pub(super) target: PathAndQuery,
}

/// All that is to be asked for, each once, in the order of the body.
pub(super) fn lookups(
    body: &[u8],
    rules: &References,
    admission: &Admission,
) -> Result<Vec<Lookup>, Unfit> {
    let mut found = Vec::new();
    for (member, id) in ids(body, rules)? {
        let target = target(admission, rules, member, &id);
        let target = target.ok_or(Unfit::Member(member, "no path can carry this id"))?;
        let lookup = Lookup { member, target };
        if found.contains(&lookup) {
            continue;
        }
        if found.len() == LOOKUPS_MAX {
            return Err(Unfit::TooMany);
        }
        found.push(lookup);
    }
    Ok(found)
}

/// The ids that the members say.
pub(super) fn ids(body: &[u8], rules: &References) -> Result<Vec<(usize, String)>, Unfit> {
    let mut ids = Vec::new();
    let mut seen = Vec::new();
    for (member, said) in said(body, rules).ok_or(Unfit::Body)? {
        // Some decoders take the first, some the last, and some take `Estate_ID` for it.
        if seen.contains(&member) {
            return Err(Unfit::Member(member, "it stands twice"));
        }
        seen.push(member);
        match said {
            Said::Nothing => {}
            Said::Id(id) => ids.push((member, id)),
            Said::Ids(all) => ids.extend(all.into_iter().map(|id| (member, id))),
            Said::TooMany => return Err(Unfit::TooMany),
            Said::Else => {
                let why = "it is no text, no whole number and no list of them";
                return Err(Unfit::Member(member, why));
            }
        }
    }
    Ok(ids)
}

/// Where an id of this member is to be found: in the caller's own place, with what the route's bindings say of the caller in the query.
fn target(
    admission: &Admission,
    rules: &References,
    member: usize,
    id: &str,
) -> Option<PathAndQuery> {
    let tenant = admission.tenant()?;
    let path = rules.members[member].place.of(tenant.id.as_str(), id)?;
    let mut text = admission.place().prefix(Some(tenant))?;
    text.push_str(&path);
    if let Some(bindings) = &admission.route().bindings {
        let bound = bindings.query.iter().chain(&bindings.set_query);
        for (place, bound) in bound.enumerate() {
            // Neither names nor tenants nor subjects have anything that means something in a query.
            let name = match bound.whom {
                Whom::Tenant => tenant.id.as_str(),
                Whom::Subject => admission.subject()?,
            };
            text.push(if place == 0 { '?' } else { '&' });
            text.push_str(&format!("{}={name}", bound.name));
        }
    }
    PathAndQuery::try_from(text).ok()
}

/// Most things that are asked for before one write.
pub(super) const LOOKUPS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::*;
    use crate::upstream::references::properties::assert_found;
    use crate::upstream::references::properties::read;
    use crate::upstream::references::properties::rules;
    use crate::upstream::references::said::LIST_MAX;
    use crate::upstream::tests::admission;
    use crate::upstream::tests::config;

    fn targets(body: &str) -> Result<Vec<String>, Unfit> {
        let admission = admission(&std::sync::Arc::new(config(&[])), true, "/leases");
        let lookups = lookups(body.as_bytes(), &rules(), &admission)?;
        Ok(lookups
            .iter()
            .map(|lookup| lookup.target.to_string())
            .collect())
    }

    #[test]
    fn references_are_found_in_the_order_of_the_body() {
        let found = targets(r#"{"x":"y","k":["a",1,"a"],"estate_id":"b"}"#);
        assert_eq!(found.unwrap(), ["/k/a", "/k/1", "/orgs/acme/estates/b"]);
        // The Kelvin sign folds to k.
        assert_eq!(targets("{\"\u{212a}\":7}").unwrap(), ["/k/7"]);
        assert_eq!(targets(r#"{"k":null,"estate_id":[]}"#).unwrap(), [""; 0]);
    }

    #[test]
    fn there_is_a_bound_to_what_is_looked_up() {
        let list = |count: usize| {
            let ids: Vec<String> = (0..count).map(|id| id.to_string()).collect();
            format!("{{\"k\":[{}]}}", ids.join(","))
        };
        assert_eq!(targets(&list(LOOKUPS_MAX)).unwrap().len(), LOOKUPS_MAX);
        assert_eq!(targets(&list(LOOKUPS_MAX + 1)), Err(Unfit::TooMany));
        assert_eq!(targets(&list(LIST_MAX + 1)), Err(Unfit::TooMany));
        let same = format!("{{\"k\":[{}]}}", vec!["7"; LIST_MAX].join(","));
        assert_eq!(targets(&same).unwrap(), ["/k/7"]);
        // Nothing nests so deep that it ends the thread.
        let deep = format!("{{\"k\":{}", "[".repeat(100_000));
        assert_eq!(targets(&deep), Err(Unfit::Body));
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(
            targets(&deep).is_ok_and(|found| found.is_empty())
                || targets(&deep) == Err(Unfit::Body)
        );
    }

    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            (0..200_u64).prop_map(Json::from),
            (0..9_u32).prop_map(|half| Json::from(f64::from(half) + 0.5)),
            "[a-c7]{0,2}".prop_map(Json::from),
        ];
        let name = prop_oneof![Just("estate_id"), Just("k"), Just("x")];
        leaf.prop_recursive(3, 12, 3, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Json::from),
                prop::collection::vec((name.clone(), inner), 0..3).prop_map(|members| {
                    let members = members
                        .into_iter()
                        .map(|(name, said)| (name.to_owned(), said));
                    Json::Object(members.collect())
                }),
            ]
        })
    }

    proptest! {
        // FM10: what is looked up is what a decoder reads, whatever the spelling.
        #[test]
        fn what_is_looked_up_is_what_is_said(body in json(), escaped in any::<bool>(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) };
            let mut text = text.unwrap();
            if escaped {
                text = text.replace("estate_id", "est\\u0061te_id").replace("\"a", "\"\\u0061");
            }
            let found = ids(text.as_bytes(), &rules());
            prop_assert_eq!(found.is_ok(), read(&body, &rules()).is_some());
            assert_found(text.as_bytes());
        }

        #[test]
        fn any_body_is_read_as_others_read_it(body in prop::collection::vec(any::<u8>(), 0..40), text in "[{}\\[\\]\",:0-9a-k_\\\\]{0,40}") {
            crate::upstream::properties::references(&body);
            assert_found(text.as_bytes());
            let _ = targets(&text);
        }
    }
}
