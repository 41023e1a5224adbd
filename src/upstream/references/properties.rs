//! What must hold of the references of any body; proptest and fuzz target call it.

use serde_json::Value;

use crate::guard::same_member;
use crate::model::limit::Mode;
use crate::model::route::path;
use crate::model::route::reference::LookupPath;
use crate::model::route::reference::Reference;
use crate::model::route::reference::References;
use crate::upstream::references::found::ids;

/// Any body: what is looked up is what another decoder reads there, each id one segment of a path that nobody reads in two ways (FM10).
pub(in crate::upstream) fn assert_found(body: &[u8]) {
    let rules = rules();
    let Ok(found) = ids(body, &rules) else {
        return;
    };
    for (member, id) in &found {
        let Some(path) = rules.members[*member].place.of("acme", id) else {
            continue;
        };
        let segment = path.rsplit('/').next().unwrap_or_default();
        let encoded: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        assert!(path::same_when_decoded(segment, &encoded), "{id:?}: {path}");
        assert_eq!(path::canonical(&path).doubt, None, "{path}");
    }
    // A decoder that reads the whole minds more: numbers beyond all bounds where nobody looks.
    let Ok(whole) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    let mut read = read(&whole, &rules).expect("what another decoder can look up");
    let mut found: Vec<String> = found.into_iter().map(|(_, id)| id).collect();
    read.sort_unstable();
    found.sort_unstable();
    assert_eq!(read, found);
}

pub(super) fn rules() -> References {
    let members = [("estate_id", "/orgs/{tenant}/estates/{}"), ("k", "/k/{}")];
    let members = members.map(|(name, place)| Reference {
        member: name.to_owned(),
        place: LookupPath::parse(place).expect("a path"),
    });
    References {
        members: members.to_vec(),
        body_bytes_max: 1024,
        mode: Mode::Enforce,
    }
}

/// The ids that the members say; `None` where one says something else.
pub(super) fn read(whole: &Value, rules: &References) -> Option<Vec<String>> {
    let mut ids = Vec::new();
    for (name, said) in whole.as_object()? {
        let mut members = rules.members.iter();
        if !members.any(|member| same_member(&member.member, name)) {
            continue;
        }
        let said = match said {
            Value::Null => Vec::new(),
            Value::Array(all) => all.clone(),
            one => vec![one.clone()],
        };
        for id in said {
            ids.push(match id {
                Value::String(id) => id,
                Value::Number(id) if !id.is_f64() => id.to_string(),
                _ => return None,
            });
        }
    }
    Some(ids)
}
