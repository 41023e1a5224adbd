//! `[headers]`, `[tenant_header]` and `[subject_header]`: what a backend is told.

use http::HeaderName;
use toml::Spanned;

use crate::config::file::Reader;
use crate::config::names;
use crate::config::problem::Problem;

/// `[headers]`, `[tenant_header]` and `[subject_header]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The trusted tenant header.
    pub tenant: HeaderName,
    /// The trusted header that carries the key's subject (FA18); `None` sends none.
    pub subject: Option<HeaderName>,
    /// Whether names with `_` reach the backend (`underscore_headers = "keep"`); aliases of trusted names never do.
    pub keep_underscore: bool,
    /// More names that only this gateway or nobody may set; removed from every request, lower case.
    pub remove: Vec<HeaderName>,
    /// Whether `X-Forwarded-For/-Proto/-Host/-Port` are set.
    pub forwarded: bool,
}

/// `[tenant_header]`, `[subject_header]` and `[headers]`.
pub(in crate::config) fn headers(root: &mut Reader<'_>) -> Headers {
    let tenant = root.table("tenant_header", "tenant_header", |table| {
        table.word("name", names::tenant_header).map_or_else(
            || HeaderName::from_static("x-tenant-id"),
            Spanned::into_inner,
        )
    });
    let subject = subject_header(root, &tenant);
    root.table("headers", "headers", |table| Headers {
        tenant,
        subject,
        keep_underscore: table.choice(
            "underscore_headers",
            false,
            &[("drop", false), ("keep", true)],
        ),
        remove: table
            .list("remove", names::header_name)
            .unwrap_or_default()
            .into_iter()
            .map(Spanned::into_inner)
            .collect(),
        forwarded: table.flag("forwarded", true),
    })
}

fn subject_header(root: &mut Reader<'_>, tenant: &HeaderName) -> Option<HeaderName> {
    root.table("subject_header", "subject_header", |table| {
        let name = table.word("name", |text| match text {
            "" => Ok(None),
            text => names::tenant_header(text).map(Some),
        });
        let (at, name) = name.map(|name| (name.span(), name.into_inner()))?;
        if name.as_ref() == Some(tenant) {
            let what = "[subject_header] name: the tenant has this header";
            let help = "choose another name, for example \"X-Subject-ID\"";
            table.notes().error(Problem::here(at, what, help));
        }
        name
    })
}
