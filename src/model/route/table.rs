//! Finds the route of a request: a tree of path segments for each host.

use std::cmp::Reverse;
use std::sync::Arc;

use super::Access;
use super::Found;
use super::Route;
use super::host;
use super::path;
use super::pattern::Pattern;
use super::pattern::Segment;

/// One tree per host, and one for requests that no host's tree serves.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Exact names, sorted.
    exact: Vec<(String, Node)>,
    /// Wildcard names, the longest first.
    wildcard: Vec<(String, Node)>,
    any: Node,
}

/// Where a walk along the segments of a path may stand.
#[derive(Debug, Default)]
struct Node {
    /// Sorted by text.
    fixed: Vec<(String, Node)>,
    param: Option<Box<Node>>,
    /// Routes whose path ends here.
    end: Leaf,
    /// Routes whose path goes on with `{*rest}` here.
    rest: Leaf,
}

/// Routes of one path shape; no two have a method in common.
#[derive(Debug, Default)]
struct Leaf(Vec<(usize, Arc<Route>)>);

/// The path spells a static segment in an encoded way.
struct Alias;

impl Table {
    /// See `RouteTable::build`.
    pub(super) fn build(routes: &[Arc<Route>]) -> Result<Table, (usize, usize)> {
        let mut table = Table::default();
        for (index, route) in routes.iter().enumerate() {
            let pattern = Pattern::parse(&route.path).map_err(|_| (index, index))?;
            let leaf = table.tree(route.host.as_deref()).leaf(&pattern);
            if let Some((earlier, _)) = leaf.0.iter().find(|(_, other)| overlap(other, route)) {
                return Err((*earlier, index));
            }
            leaf.0.push((index, Arc::clone(route)));
        }
        table.wildcard.sort_by_key(|(name, _)| Reverse(name.len()));
        Ok(table)
    }

    /// See `RouteTable::find`.
    pub(super) fn find(&self, host: &str, path: &str, method: &str) -> Found {
        let Some(relative) = path.strip_prefix('/') else {
            return Found::Nothing;
        };
        for tree in self.trees(host) {
            match tree.walk(Some(relative)) {
                Ok(Some(leaf)) => return leaf.answer(method),
                Ok(None) => {}
                Err(Alias) => return Found::Nothing,
            }
        }
        Found::Nothing
    }

    /// The trees that may serve a host, the most specific first.
    fn trees<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Node> {
        let exact = self
            .exact
            .binary_search_by(|(name, _)| name.as_str().cmp(host))
            .ok()
            .map(|place| &self.exact[place].1);
        let wildcard = self
            .wildcard
            .iter()
            .filter(move |(name, _)| host::covers(name, host))
            .map(|(_, tree)| tree);
        exact
            .into_iter()
            .chain(wildcard)
            .chain(std::iter::once(&self.any))
    }

    fn tree(&mut self, host: Option<&str>) -> &mut Node {
        match host {
            None => &mut self.any,
            Some(name) if name.starts_with('*') => child(&mut self.wildcard, name),
            Some(name) => child(&mut self.exact, name),
        }
    }
}

impl Node {
    fn leaf(&mut self, pattern: &Pattern) -> &mut Leaf {
        let node = pattern
            .segments
            .iter()
            .fold(self, |node, segment| match segment {
                Segment::Static(text) => child(&mut node.fixed, text),
                Segment::Param => node.param.get_or_insert_default(),
            });
        if pattern.rest {
            &mut node.rest
        } else {
            &mut node.end
        }
    }

    /// The most specific leaf for what is left of the path; `None` is its end. Each node is reached by one way only, so that a walk costs
    /// at most one visit of each node.
    fn walk(&self, path: Option<&str>) -> Result<Option<&Leaf>, Alias> {
        let Some(path) = path else {
            return Ok(self.end.if_any().or_else(|| self.rest.if_any()));
        };
        let (segment, after) = match path.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (path, None),
        };
        if let Some(next) = self.fixed(segment)?
            && let Some(leaf) = next.walk(after)?
        {
            return Ok(Some(leaf));
        }
        if let Some(next) = &self.param
            && !segment.is_empty()
            && let Some(leaf) = next.walk(after)?
        {
            return Ok(Some(leaf));
        }
        Ok(self.rest.if_any())
    }

    fn fixed(&self, segment: &str) -> Result<Option<&Node>, Alias> {
        let place = self
            .fixed
            .binary_search_by(|(text, _)| text.as_str().cmp(segment));
        if let Ok(place) = place {
            return Ok(Some(&self.fixed[place].1));
        }
        // A backend that decodes before it routes would take the static way, one that does not the other.
        let alias = segment.contains('%')
            && self
                .fixed
                .iter()
                .any(|(text, _)| path::same_when_decoded(text, segment));
        if alias { Err(Alias) } else { Ok(None) }
    }
}

impl Leaf {
    fn if_any(&self) -> Option<&Leaf> {
        (!self.0.is_empty()).then_some(self)
    }

    fn answer(&self, method: &str) -> Found {
        let routes = || self.0.iter().map(|(_, route)| route);
        if let Some(route) = routes().find(|route| serves(route, method)) {
            return Found::Route(Arc::clone(route));
        }
        let guarded = routes().find(|route| route.access != Access::Public);
        match guarded.or_else(|| routes().next()) {
            Some(route) => Found::OtherMethods(Arc::clone(route), self.allow()),
            None => Found::Nothing,
        }
    }

    fn allow(&self) -> String {
        let mut methods: Vec<&str> = self
            .0
            .iter()
            .flat_map(|(_, route)| route.methods.iter().map(String::as_str))
            .collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        methods.sort_unstable();
        methods.dedup();
        methods.join(", ")
    }
}

/// The node under this text, made and kept in order if there is none.
fn child<'a>(nodes: &'a mut Vec<(String, Node)>, text: &str) -> &'a mut Node {
    let place = nodes.binary_search_by(|(name, _)| name.as_str().cmp(text));
    let place = match place {
        Ok(place) => place,
        Err(place) => {
            nodes.insert(place, (text.to_owned(), Node::default()));
            place
        }
    };
    &mut nodes[place].1
}

fn serves(route: &Route, method: &str) -> bool {
    let lists = |method: &str| route.methods.iter().any(|listed| listed == method);
    route.methods.is_empty() || lists(method) || (method == "HEAD" && lists("GET"))
}

fn overlap(one: &Route, other: &Route) -> bool {
    one.methods.is_empty()
        || other.methods.is_empty()
        || one.methods.iter().any(|method| serves(other, method))
        || other.methods.iter().any(|method| serves(one, method))
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;

    use super::*;
    use crate::model::route::RouteTable;

    fn route(host: Option<&str>, path: &str, methods: &[&str]) -> Arc<Route> {
        Arc::new(Route {
            host: host.map(str::to_owned),
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            ..Route::for_tests(path)
        })
    }

    /// The pattern found, with its host; `!` and the methods for `OtherMethods`.
    fn found(table: &RouteTable, host: &str, path: &str, method: &str) -> String {
        match table.find(host, path, method) {
            Found::Route(route) => {
                format!("{}{}", route.host.as_deref().unwrap_or(""), route.path)
            }
            Found::OtherMethods(_, allow) => format!("!{allow}"),
            Found::Nothing => "-".to_owned(),
        }
    }

    #[test]
    fn static_beats_param_beats_rest_in_any_file_order() {
        let mut routes = vec![
            route(None, "/leases/{*rest}", &[]),
            route(None, "/leases/{id}", &[]),
            route(None, "/leases/new", &[]),
            route(None, "/leases/{id}/files/{*rest}", &[]),
            route(None, "/leases/new/draft", &[]),
            route(None, "/", &[]),
        ];
        let cases = [
            ("/", "/"),
            ("/leases", "/leases/{*rest}"),
            ("/leases/", "/leases/{*rest}"),
            ("/leases/7", "/leases/{id}"),
            ("/leases/7/", "/leases/{*rest}"),
            ("/leases/new", "/leases/new"),
            ("/leases/new/draft", "/leases/new/draft"),
            ("/leases/new/files", "/leases/{id}/files/{*rest}"),
            ("/leases/7/files/a/b", "/leases/{id}/files/{*rest}"),
            ("/leases/new/other", "/leases/{*rest}"),
            ("/leasesx", "-"),
            ("/Leases", "-"),
            ("/x", "-"),
            ("", "-"),
        ];
        for _ in 0..routes.len() {
            routes.rotate_left(1);
            let table = RouteTable::build(&routes).unwrap();
            for (path, expected) in cases {
                assert_eq!(found(&table, "h", path, "GET"), expected, "{path}");
            }
        }
    }

    #[test]
    fn a_trailing_slash_is_another_path() {
        let table = RouteTable::build(&[route(None, "/a", &[]), route(None, "/b/", &[])]).unwrap();
        assert_eq!(found(&table, "h", "/a", "GET"), "/a");
        assert_eq!(found(&table, "h", "/a/", "GET"), "-");
        assert_eq!(found(&table, "h", "/b", "GET"), "-");
        assert_eq!(found(&table, "h", "/b/", "GET"), "/b/");
    }

    #[test]
    fn exact_host_beats_wildcard_beats_none_for_each_path() {
        let table = RouteTable::build(&[
            route(None, "/x", &[]),
            route(None, "/only-any", &[]),
            route(Some("*.example.com"), "/x", &[]),
            route(Some("*.eu.example.com"), "/x", &[]),
            route(Some("api.example.com"), "/{*rest}", &[]),
            route(Some("b.eu.example.com"), "/y", &[]),
        ])
        .unwrap();
        let cases = [
            ("api.example.com", "/x", "api.example.com/{*rest}"),
            ("www.example.com", "/x", "*.example.com/x"),
            ("a.eu.example.com", "/x", "*.eu.example.com/x"),
            ("b.eu.example.com", "/x", "*.eu.example.com/x"),
            ("b.eu.example.com", "/only-any", "/only-any"),
            ("example.com", "/x", "/x"),
            ("other.org", "/x", "/x"),
        ];
        for (host, path, expected) in cases {
            assert_eq!(found(&table, host, path, "GET"), expected, "{host}{path}");
        }
    }

    #[test]
    fn methods_do_not_fall_through() {
        let table = RouteTable::build(&[
            route(None, "/{*rest}", &[]),
            route(None, "/leases", &["GET"]),
            route(None, "/leases", &["POST", "DELETE"]),
        ])
        .unwrap();
        let cases = [
            ("GET", "/leases"),
            ("HEAD", "/leases"),
            ("POST", "/leases"),
            ("PUT", "!DELETE, GET, HEAD, POST"),
            ("get", "!DELETE, GET, HEAD, POST"),
        ];
        for (method, expected) in cases {
            assert_eq!(found(&table, "h", "/leases", method), expected, "{method}");
        }
        assert_eq!(found(&table, "h", "/other", "PUT"), "/{*rest}");
    }

    #[test]
    fn other_methods_name_a_guarded_route_first() {
        let open = Route {
            access: Access::Public,
            ..(*route(None, "/a", &["GET"])).clone()
        };
        let table = RouteTable::build(&[Arc::new(open), route(None, "/a", &["POST"])]).unwrap();
        let Found::OtherMethods(route, _) = table.find("h", "/a", "PUT") else {
            panic!("no route serves PUT");
        };
        assert_eq!(route.access, Access::AnyKey);
    }

    #[test]
    fn routes_that_cannot_be_told_apart_are_refused() {
        type Lines<'a> = &'a [(Option<&'a str>, &'a str, &'a [&'a str])];
        let cases: [(Lines<'_>, _); 7] = [
            (&[(None, "/a", &[]), (None, "/a", &["GET"])], Err((0, 1))),
            (
                &[(None, "/{a}", &["GET"]), (None, "/{b}", &["GET"])],
                Err((0, 1)),
            ),
            (
                &[(None, "/a", &["GET"]), (None, "/a", &["HEAD"])],
                Err((0, 1)),
            ),
            (
                &[
                    (None, "/{*a}", &[]),
                    (None, "/b", &[]),
                    (None, "/{*b}", &[]),
                ],
                Err((0, 2)),
            ),
            (&[(None, "/a", &["GET"]), (None, "/a", &["POST"])], Ok(())),
            (&[(Some("h"), "/a", &[]), (None, "/a", &[])], Ok(())),
            (&[(None, "no slash", &[])], Err((0, 0))),
        ];
        for (routes, expected) in cases {
            let routes: Vec<Arc<Route>> = routes
                .iter()
                .map(|(host, path, methods)| route(*host, path, methods))
                .collect();
            assert_eq!(
                RouteTable::build(&routes).map(|_| ()),
                expected,
                "{routes:?}"
            );
        }
    }

    #[test]
    fn an_encoded_spelling_of_a_static_segment_is_no_parameter() {
        let table = RouteTable::build(&[
            route(None, "/{job}", &[]),
            route(None, "/jobs:run", &[]),
            route(None, "/{*rest}", &[]),
        ])
        .unwrap();
        assert_eq!(found(&table, "h", "/jobs:run", "GET"), "/jobs:run");
        assert_eq!(found(&table, "h", "/jobs%3Arun", "GET"), "-");
        assert_eq!(found(&table, "h", "/a%40b", "GET"), "/{job}");
    }

    /// What the table must find, worked out the slow way: the smallest list of segment kinds (0 static, 1 param, 2 rest) wins.
    fn naive(routes: &[Arc<Route>], path: &str) -> Option<Vec<u8>> {
        let segments: Vec<&str> = path[1..].split('/').collect();
        let kinds = |route: &Arc<Route>| {
            let pattern = Pattern::parse(&route.path).unwrap();
            let mut kinds = Vec::new();
            for (place, wanted) in pattern.segments.iter().enumerate() {
                let given = segments.get(place)?;
                match wanted {
                    Segment::Static(text) if text == given => kinds.push(0),
                    Segment::Param if !given.is_empty() => kinds.push(1),
                    Segment::Static(_) | Segment::Param => return None,
                }
            }
            if pattern.rest {
                kinds.push(2);
            } else if segments.len() != pattern.segments.len() {
                return None;
            }
            Some(kinds)
        };
        routes.iter().filter_map(kinds).min()
    }

    fn kinds_of(route: &Route) -> Vec<u8> {
        let pattern = Pattern::parse(&route.path).unwrap();
        let mut kinds: Vec<u8> = pattern
            .segments
            .iter()
            .map(|segment| u8::from(*segment == Segment::Param))
            .collect();
        kinds.extend(pattern.rest.then_some(2));
        kinds
    }

    fn pattern_texts() -> impl Strategy<Value = String> {
        let segment = prop_oneof![Just("a"), Just("b"), Just("{}")];
        let ending = prop_oneof![Just(""), Just("/"), Just("/{*rest}")];
        (prop::collection::vec(segment, 0..4), ending).prop_map(|(segments, ending)| {
            let mut text = String::new();
            for (place, segment) in segments.iter().enumerate() {
                text.push('/');
                text.push_str(&segment.replace("{}", &format!("{{p{place}}}")));
            }
            text.push_str(ending);
            if text.is_empty() {
                "/".to_owned()
            } else {
                text
            }
        })
    }

    proptest! {
        #[test]
        fn finds_what_a_naive_matcher_finds(
            texts in prop::collection::btree_set(pattern_texts(), 1..12),
            path in "(/[abc]){0,5}/?",
        ) {
            let path = if path.is_empty() { "/".to_owned() } else { path };
            let routes: Vec<Arc<Route>> = texts.iter().map(|text| route(None, text, &[])).collect();
            let table = RouteTable::build(&routes).unwrap();
            let found = match table.find("h", &path, "GET") {
                Found::Route(route) => Some(kinds_of(&route)),
                Found::OtherMethods(..) | Found::Nothing => None,
            };
            prop_assert_eq!(found, naive(&routes, &path));
        }
    }
}
