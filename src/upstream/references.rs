//! What a write refers to in its JSON is looked up first, as its caller: what the caller has not is not written about (FM10).
//!
//! The body is held, its references are found, and each is asked for by GET: HEAD would do, but many backends do not know it, and what they
//! say of it is no answer. One after the other: a write seldom has more than two, and the first that is not the caller's ends it.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::Method;
use http::Request;
use http::StatusCode;
use http::Uri;
use http::header;
use http::uri::PathAndQuery;
use http_body::Body;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;

use crate::config::UpstreamProtocol;
use crate::gate::Admission;
use crate::guard::Bounds;
use crate::guard::Coding;
use crate::guard::Fault;
use crate::guard::Rules;
use crate::guard::Stage;
use crate::guard::form;
use crate::guard::same_member;
use crate::model::guard::Broken;
use crate::model::guard::Guard;
use crate::model::limit::Mode;
use crate::model::route::bind::Whom;
use crate::model::route::reference::References;
use crate::refusal::UpstreamFailure;
use crate::upstream::Answer;
use crate::upstream::Failure;
use crate::upstream::FailureKind;
use crate::upstream::Forwarded;
use crate::upstream::ResponseBody;
use crate::upstream::body::BodyFault;
use crate::upstream::body::RequestBody;
use crate::upstream::deadline::Silence;
use crate::upstream::drain::Unread;
use crate::upstream::forward::Exchange;
use crate::upstream::headers;
use crate::upstream::hold::hold;
use crate::upstream::inject;

/// What the request's route looks up, if it does for this method.
pub(super) fn of<'a>(admission: &'a Admission, method: &Method) -> Option<&'a References> {
    let references = admission.route().references.as_deref();
    references.filter(|_| !method.is_safe())
}

/// Lets a write pass whose references are all its caller's. Its body is whole then, and its length stated.
///
/// # Errors
/// Why it does not pass; nothing of it has been sent. Where that is only observed, the client's own faults alone.
pub(super) async fn check(
    exchange: &Exchange<'_>,
    rules: &References,
    request: &mut Request<RequestBody>,
) -> Result<(), Failure> {
    let Err(failure) = look_up_all(exchange, rules, request).await else {
        return Ok(());
    };
    if rules.mode == Mode::Enforce || exchange.upload.fault().is_some() {
        return Err(failure);
    }
    exchange.admission.observe(failure.kind.reason());
    Ok(())
}

async fn look_up_all(
    exchange: &Exchange<'_>,
    rules: &References,
    request: &mut Request<RequestBody>,
) -> Result<(), Failure> {
    // Frameworks mix both: what stands in the query too, or instead, is nothing that can be told.
    let in_query = |name: &str| exchange.admission.query_has(name);
    let mut members = rules.members.iter();
    if let Some(member) = members.position(|one| in_query(&one.member)) {
        return Err(Unfit::Member(member, "it stands in the query").failure(exchange, rules));
    }
    if request.body().is_end_stream() {
        return Ok(());
    }
    if !inject::is_json(request.headers()) || inject::is_encoded(request.headers()) {
        return Err(exchange.type_unfit());
    }
    let body = hold(exchange, rules.body_bytes_max, request).await?;
    let lookups = lookups(&body, rules, exchange.admission);
    request.body_mut().begin_again(body);
    let lookups = lookups.map_err(|unfit| unfit.failure(exchange, rules))?;
    for lookup in lookups {
        let member = &rules.members[lookup.member].member;
        let found = look_up(exchange, request.headers(), lookup.target).await;
        found.map_err(|failure| Failure {
            detail: format!("reference {member:?}: {}", failure.detail),
            ..failure
        })?;
    }
    Ok(())
}

/// One thing to be asked for.
#[derive(Debug, PartialEq, Eq)]
struct Lookup {
    /// Index into the rules' members.
    member: usize,
    target: PathAndQuery,
}

/// Why nothing can be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfit {
    /// The body is not one JSON object.
    Body,
    /// This member says nothing that can be looked up; says why.
    Member(usize, &'static str),
    /// There is too much to look up.
    TooMany,
}

impl Unfit {
    fn failure(self, exchange: &Exchange<'_>, rules: &References) -> Failure {
        let detail = match self {
            Unfit::Body => return exchange.client_failed(BodyFault::Unfit, None),
            Unfit::Member(index, why) => {
                format!("reference {:?}: {why}", rules.members[index].member)
            }
            Unfit::TooMany => format!("more than {LOOKUPS_MAX} references"),
        };
        Failure {
            kind: FailureKind::ReferenceUnfit,
            server: None,
            detail,
        }
    }
}

/// All that is to be asked for, each once, in the order of the body.
fn lookups(body: &[u8], rules: &References, admission: &Admission) -> Result<Vec<Lookup>, Unfit> {
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
fn ids(body: &[u8], rules: &References) -> Result<Vec<(usize, String)>, Unfit> {
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

/// What the members say, in the order of the body; `None` where it is not one JSON object. Stricter than most backends: no comments, no trailing
/// commas, no byte order mark, nothing that is not UTF-8, in whose place some decoders see a quotation mark less.
fn said(body: &[u8], rules: &References) -> Option<Vec<(usize, Said)>> {
    let text = std::str::from_utf8(body).ok()?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let said = reader.deserialize_map(Members(rules)).ok()?;
    reader.end().ok().map(|()| said)
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

/// Finds the members of an object that the rules name, in whatever spelling a decoder takes for theirs.
struct Members<'a>(&'a References);

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Vec<(usize, Said)>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut said = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let mut members = self.0.members.iter();
            match members.position(|member| same_member(&member.member, &name)) {
                Some(member) => said.push((member, map.next_value()?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(said)
    }
}

/// What a member says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// `null`.
    Nothing,
    /// One id: a text, or a whole number of 64 bits as decimal digits.
    Id(String),
    /// A list of them.
    Ids(Vec<String>),
    /// A list of more than may be looked up.
    TooMany,
    /// Anything else.
    Else,
}

impl<'de> Deserialize<'de> for Said {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Said, D::Error> {
        from.deserialize_any(Value)
    }
}

struct Value;

impl<'de> Visitor<'de> for Value {
    type Value = Said;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("anything")
    }

    fn visit_unit<E: Error>(self) -> Result<Said, E> {
        Ok(Said::Nothing)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Said, E> {
        Ok(Said::Else)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Said, E> {
        Ok(Said::Id(number.to_string()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Said, E> {
        Ok(Said::Id(number.to_string()))
    }

    /// What is too large for 64 bits or has a fraction is written in more than one way, and read in more than one.
    fn visit_f64<E: Error>(self, _: f64) -> Result<Said, E> {
        Ok(Said::Else)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Said, E> {
        Ok(Said::Id(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Said, A::Error> {
        let mut ids = Vec::new();
        let mut plain = true;
        while ids.len() <= LIST_MAX {
            match list.next_element()? {
                None if plain => return Ok(Said::Ids(ids)),
                None => return Ok(Said::Else),
                Some(Said::Id(id)) => ids.push(id),
                Some(_) => plain = false,
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Said::TooMany)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Said, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Said::Else)
    }
}

/// Asks for one thing as the caller would.
///
/// # Errors
/// `FailureKind::ReferenceForeign` where it is not there for the caller; the backend's failure where it does not say.
async fn look_up(
    exchange: &Exchange<'_>,
    prepared: &HeaderMap,
    target: PathAndQuery,
) -> Result<(), Failure> {
    let beside = exchange.beside();
    let config = &exchange.admission.snapshot().config;
    let silence = Silence::new(exchange.upstream.idle_timeout, exchange.end);
    let unread = Unread::of(&HeaderMap::new(), &config.connections);
    let body = RequestBody::none(Rc::clone(&beside.upload), silence, unread);
    let mut request = Request::new(body);
    *request.uri_mut() = Uri::from(target);
    *request.headers_mut() = headers::of_lookup(prepared, &config.headers);
    let forwarded = match exchange.upstream.protocol {
        UpstreamProtocol::Http2 => Box::pin(beside.run_http2(request)).await?,
        UpstreamProtocol::Http1 => Box::pin(beside.run(request)).await?,
    };
    match forwarded {
        Forwarded::Answer(answer) => judge(exchange, answer).await,
        // Nobody asked for it.
        Forwarded::Switched(switched) => Err(doubtful(exchange, &switched.server, "a tunnel")),
    }
}

/// What the backend's answer says.
async fn judge(exchange: &Exchange<'_>, answer: Answer) -> Result<(), Failure> {
    let status = answer.response.status();
    let (head, body) = answer.response.into_parts();
    let server = answer.server;
    match status {
        _ if status.is_success() => {}
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::GONE => {
            discard(body).await;
            return Err(foreign(
                &server,
                format!("{} to its lookup", status.as_u16()),
            ));
        }
        _ => {
            discard(body).await;
            let said = format!("{} to its lookup", status.as_u16());
            return Err(doubtful(exchange, &server, &said));
        }
    }
    let guard = exchange.admission.route().guard.as_deref();
    let watching = |guard: &&Guard| {
        guard.mode == Mode::Enforce && guard.answers.iter().any(|member| member.watch)
    };
    let Some(guard) = guard.filter(watching) else {
        discard(body).await;
        return Ok(());
    };
    let silent = exchange.upstream.first_byte_timeout;
    let watched = tokio::time::timeout(
        silent,
        watch(exchange.admission, guard, &head.headers, body),
    );
    match watched.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Doubt::Foreign)) => Err(foreign(
            &server,
            "the guard saw another tenant's id".to_owned(),
        )),
        Ok(Err(Doubt::Unclear(why))) => Err(doubtful(exchange, &server, why)),
        Err(_) => Err(doubtful(exchange, &server, "an answer that does not end")),
    }
}

/// Reads an answer as the route's guard would, for a backend that answers 200 to whoever asks.
async fn watch(
    admission: &Admission,
    guard: &Guard,
    headers: &HeaderMap,
    mut body: ResponseBody,
) -> Result<(), Doubt> {
    let media = headers.get(header::CONTENT_TYPE);
    let Some(form) = form(media.map_or(b"", |media| media.as_bytes())) else {
        return Ok(());
    };
    if inject::is_encoded(headers) {
        return Err(Doubt::Unclear("an encoded answer to a lookup in plain"));
    }
    let rules = Rules {
        members: Arc::clone(&guard.answers),
        own: admission
            .tenant()
            .map(|tenant| Arc::from(tenant.id.as_str())),
        lenient: guard.broken == Broken::Pass,
        sniff: false,
        insert: None,
    };
    let bounds = Bounds {
        bytes_max: guard.decoded_bytes_max,
        ratio_max: guard.decoded_ratio_max,
    };
    let mut stage = Stage::new(&rules, form, Coding::Identity, bounds)?;
    let mut bytes = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Doubt::Unclear("an answer that broke off"))?;
        let data = frame.into_data().unwrap_or_default();
        bytes += data.len();
        if bytes > ANSWER_BYTES_MAX {
            return Err(Doubt::Unclear("an answer too large to be judged"));
        }
        stage.push(data);
        while stage.pull()?.is_some() {}
    }
    stage.finish()?;
    Ok(())
}

/// Why an answer is not believed.
enum Doubt {
    Foreign,
    Unclear(&'static str),
}

impl From<Fault> for Doubt {
    fn from(fault: Fault) -> Doubt {
        match fault {
            Fault::Foreign(_) => Doubt::Foreign,
            Fault::Broken(why) | Fault::Undecodable(why) => Doubt::Unclear(why),
            Fault::Bomb => Doubt::Unclear("an answer too large to be judged"),
        }
    }
}

/// Takes an answer off its connection, so that the next request can have that, unless it is long.
async fn discard(mut body: ResponseBody) {
    let rest = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            bytes += frame.data_ref().map_or(0, |data| data.len());
            if bytes > DISCARD_BYTES_MAX {
                break;
            }
        }
    };
    // Late is as good as long: the connection closes.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, rest).await;
}

fn foreign(server: &Rc<str>, detail: String) -> Failure {
    Failure {
        kind: FailureKind::ReferenceForeign,
        server: Some(Rc::clone(server)),
        detail,
    }
}

/// Neither yes nor no.
fn doubtful(exchange: &Exchange<'_>, server: &Rc<str>, said: &str) -> Failure {
    let name = &exchange.upstream.name;
    Failure {
        kind: FailureKind::Backend(UpstreamFailure::ProtocolError),
        server: Some(Rc::clone(server)),
        detail: format!("upstream {name}: {said}"),
    }
}

/// Most things that are asked for before one write.
const LOOKUPS_MAX: usize = 16;

/// Longest list that is read: some of it may stand there twice.
const LIST_MAX: usize = 4 * LOOKUPS_MAX;

/// Largest answer to a lookup that a guard judges.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// How much of an answer is read that nobody wants, and for how long.
const DISCARD_BYTES_MAX: usize = 64 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Any body: what is looked up is what another decoder reads there, each id one segment of a path that nobody reads in two ways (FM10).
#[cfg(any(test, fuzzing))]
pub(super) fn assert_found(body: &[u8]) {
    use crate::model::route::path;
    let rules = properties::rules();
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
    let Ok(whole) = serde_json::from_slice::<serde_json::Value>(body) else {
        return;
    };
    let mut read = properties::read(&whole, &rules).expect("what another decoder can look up");
    let mut found: Vec<String> = found.into_iter().map(|(_, id)| id).collect();
    read.sort_unstable();
    found.sort_unstable();
    assert_eq!(read, found);
}

#[cfg(any(test, fuzzing))]
mod properties {
    use serde_json::Value;

    use crate::guard::same_member;
    use crate::model::limit::Mode;
    use crate::model::route::reference::LookupPath;
    use crate::model::route::reference::Reference;
    use crate::model::route::reference::References;

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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::properties::rules;
    use super::*;
    use crate::upstream::tests::admission;
    use crate::upstream::tests::config;

    fn targets(body: &str) -> Result<Vec<String>, Unfit> {
        let admission = admission(&Arc::new(config(&[])), true, "/leases");
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
            prop_assert_eq!(found.is_ok(), properties::read(&body, &rules()).is_some());
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
