//! `references` of a route: what its writes refer to and is looked up first.

use toml::Spanned;

use crate::config::file::Reader;
use crate::config::names;
use crate::config::values::Wrong;
use crate::config::values::wrong;
use crate::guard::same_member;
use crate::model::guard::Guard;
use crate::model::limit::Mode;
use crate::model::route::Access;
use crate::model::route::reference::LookupPath;
use crate::model::route::reference::REFERENCES_MAX;
use crate::model::route::reference::Reference;
use crate::model::route::reference::References;

/// `references`, `references_bytes_max` and `references_mode`; `None` where nothing is looked up.
pub(super) fn references(
    table: &mut Reader<'_>,
    methods: Option<&[Spanned<String>]>,
    access: Option<&Access>,
    guard: Option<&Guard>,
) -> Option<Box<References>> {
    let members = table.entries("references", HELP, reference);
    let bytes_max = table.size("references_bytes_max", "64KiB", ("1KiB", "16MiB"));
    let modes = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];
    let mode = table.choice("references_mode", Mode::Enforce, &modes);
    let Some(at) = table
        .place("references")
        .filter(|_| table.has("references"))
    else {
        for key in ["references_bytes_max", "references_mode"] {
            if let Some(at) = table.place(key).filter(|_| table.has(key)) {
                let help = "write references = { estate_id = \"/estates/{}\" }, or take this out";
                let nothing = wrong::<()>("nothing is looked up here", help);
                table.refuse(at, key, nothing.err()?);
            }
        }
        return None;
    };
    if let Some(wrong) = nonsense(&members, methods, access, guard) {
        table.refuse(at, "references", wrong);
    }
    let references = References {
        members,
        body_bytes_max: bytes_max,
        mode,
    };
    (!references.members.is_empty()).then(|| Box::new(references))
}

fn reference(member: &str, texts: &[&str]) -> Result<Reference, Wrong> {
    let member = names::member(member)?;
    let [text] = texts else {
        return wrong("one member is to be found in one place", HELP);
    };
    match LookupPath::parse(text) {
        Ok(place) => Ok(Reference { member, place }),
        Err(why) => wrong(
            format!("\"{text}\" is no path to look \"{member}\" up at: {why}"),
            "write a path such as \"/estates/{}\", in which {} stands for what the body says, and {tenant} for the caller's tenant",
        ),
    }
}

/// What makes looking things up senseless here.
fn nonsense(
    members: &[Reference],
    methods: Option<&[Spanned<String>]>,
    access: Option<&Access>,
    guard: Option<&Guard>,
) -> Option<Wrong> {
    let refused = |what: String, help: &str| {
        let help = help.to_owned();
        Some(Wrong { what, help })
    };
    if access == Some(&Access::Public) {
        let help = "ask for a key here, or take this out";
        return refused(
            "a public route has no caller to look things up for".to_owned(),
            help,
        );
    }
    let reads =
        |method: &Spanned<String>| matches!(method.get_ref().as_str(), "GET" | "HEAD" | "OPTIONS");
    if methods.is_some_and(|methods| !methods.is_empty() && methods.iter().all(reads)) {
        let what = "references are looked up before writes, and no method of this route is one";
        let help = "add the method that writes, such as \"POST\", or take this out";
        return refused(what.to_owned(), help);
    }
    if members.len() > REFERENCES_MAX {
        let help = "keep to what belongs to tenants";
        return refused(format!("more than {REFERENCES_MAX} members"), help);
    }
    for (place, one) in members.iter().enumerate() {
        let name = &one.member;
        let twice = |other: &&Reference| same_member(name, &other.member);
        if let Some(other) = members[..place].iter().find(twice) {
            let what = format!(
                "\"{}\" and \"{name}\" are one member to many decoders",
                other.member
            );
            return refused(what, "write one of them: it is found in either spelling");
        }
        let taken = |guard: &&Guard| {
            let mut taken = guard.requests.iter();
            guard.mode == Mode::Enforce && taken.any(|member| same_member(name, &member.name))
        };
        if let Some(guard) = guard.filter(taken) {
            let what = format!(
                "guard \"{}\" takes \"{name}\" out of these bodies",
                guard.name
            );
            return refused(what, "let the guard leave it there, or do not look it up");
        }
    }
    None
}

const HELP: &str = "write references = { estate_id = \"/estates/{}\" }";
