//! `[guards.NAME]`: what is done with the JSON of the routes that name it.

use std::sync::Arc;

use crate::config::entries::Placed;
use crate::config::entries::Places;
use crate::config::entries::inner;
use crate::config::entries::label;
use crate::config::file::Reader;
use crate::config::names;
use crate::config::problem::Problem;
use crate::config::settings;
use crate::config::values::Wrong;
use crate::model::guard::Broken;
use crate::model::guard::Foreign;
use crate::model::guard::Guard;
use crate::model::guard::MEMBERS_MAX;
use crate::model::guard::Member;
use crate::model::guard::OtherTypes;

/// `[guards.NAME]`.
pub(in crate::config) fn guards(root: &mut Reader<'_>) -> Vec<Placed<Arc<Guard>>> {
    root.named("guards", |table, name| {
        label(table, &name);
        let at = Places {
            name: name.span(),
            ..Places::default()
        };
        let remove = members(table, "remove");
        let watch = match table.has("watch") {
            true => members(table, "watch"),
            false => {
                // Asked for nevertheless, so that the key is known.
                table.ask("watch");
                remove.clone()
            }
        };
        let foreign = [
            ("404", Foreign::NotFound),
            ("502", Foreign::BadGateway),
            ("cut", Foreign::Cut),
        ];
        let broken = [("refuse", Broken::Refuse), ("pass", Broken::Pass)];
        let foreign = table.choice("foreign", Foreign::NotFound, &foreign);
        let broken = table.choice("broken", Broken::Refuse, &broken);
        let mode = settings::mode(table);
        let bytes_held = table.size("bytes_held", "64KiB", ("0B", "16MiB"));
        let decoded = table.size("decoded_bytes_max", "1GiB", ("1MiB", "1024GiB"));
        let ratio = table.number("decoded_ratio_max", 200, 10, 100_000);
        let remove_headers = inner(table.list("remove_headers", names::header_name));
        let set = members(table, "request_set");
        let taken = members(table, "request_remove");
        let other_types = [("refuse", OtherTypes::Refuse), ("pass", OtherTypes::Pass)];
        let guard = Guard {
            name: (*name.get_ref()).to_owned(),
            answers: united(&remove, &watch),
            foreign,
            broken,
            mode,
            bytes_held,
            decoded_bytes_max: decoded as u64,
            decoded_ratio_max: u64::from(ratio),
            remove_headers,
            requests: united(&[set.clone(), taken].concat(), &[]),
            set,
            other_types: table.choice("request_other_types", OtherTypes::Refuse, &other_types),
        };
        if guard.answers.is_empty() && !guard.changes_requests() && guard.remove_headers.is_empty()
        {
            let header = table.header();
            table.notes().error(Problem::context(
                header,
                format!("{} does nothing", table.title()),
                "write which members no answer may show: remove = [\"tenant_id\"]",
            ));
        }
        Placed {
            value: Arc::new(guard),
            at,
        }
    })
}

fn members(table: &mut Reader<'_>, key: &'static str) -> Vec<String> {
    let listed = table.list(key, names::member);
    if listed
        .as_ref()
        .is_some_and(|names| names.len() > MEMBERS_MAX)
    {
        let place = table.place(key).unwrap_or_default();
        table.refuse(
            place,
            key,
            Wrong {
                what: format!("more than {MEMBERS_MAX} members"),
                help: "keep to those that tell tenants apart".to_owned(),
            },
        );
    }
    inner(listed)
}

/// Each name once.
fn united(remove: &[String], watch: &[String]) -> Arc<[Member]> {
    let mut all: Vec<Member> = Vec::new();
    for name in remove.iter().chain(watch) {
        if all.iter().all(|member| member.name != *name) {
            all.push(Member {
                name: name.clone(),
                remove: remove.contains(name),
                watch: watch.contains(name),
            });
        }
    }
    Arc::from(all)
}

/// How a guard's choices are written.
pub(in crate::config) fn words(guard: &Guard) -> [(&'static str, &'static str); 3] {
    let foreign = match guard.foreign {
        Foreign::NotFound => "404",
        Foreign::BadGateway => "502",
        Foreign::Cut => "cut",
    };
    let broken = match guard.broken {
        Broken::Refuse => "refuse",
        Broken::Pass => "pass",
    };
    let other_types = match guard.other_types {
        OtherTypes::Refuse => "refuse",
        OtherTypes::Pass => "pass",
    };
    [
        ("foreign", foreign),
        ("broken", broken),
        ("request_other_types", other_types),
    ]
}
