//! The response guard's filter against a reference: parse, delete, serialise. The first byte says how the rest is cut in pieces.

#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use portcullis::guard::Fault;
use portcullis::guard::Filter;
use portcullis::guard::Rules;
use portcullis::model::guard::Member;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Some((&size, body)) = data.split_first() else {
        return;
    };
    let whole = filtered(body, body.len().max(1));
    let pieces = filtered(body, usize::from(size).max(1));
    assert_eq!(whole.1, pieces.1, "the verdict does not depend on the pieces");
    assert!(whole.0.starts_with(&pieces.0) || pieces.0.starts_with(&whole.0));
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    // What a strict parser takes is never broken, and comes out as the reference has it.
    match whole.1 {
        Ok(()) => assert_eq!(serde_json::from_slice::<Value>(&whole.0).unwrap(), deleted(value)),
        Err(fault) => assert!(matches!(fault, Fault::Broken("it is nested too deeply")), "{fault:?}"),
    }
});

fn filtered(body: &[u8], size: usize) -> (Vec<u8>, Result<(), Fault>) {
    let member = Member {
        name: "tenant_id".to_owned(),
        remove: true,
        watch: false,
    };
    let mut filter = Filter::new(&Rules {
        members: Arc::from([member]),
        own: None,
        lenient: false,
        sniff: false,
        insert: None,
    });
    let mut out = Vec::new();
    for piece in body.chunks(size) {
        match filter.feed(Bytes::copy_from_slice(piece)) {
            Ok(more) => out.extend_from_slice(&more),
            Err(fault) => return (out, Err(fault)),
        }
    }
    match filter.finish() {
        Ok(more) => out.extend_from_slice(&more),
        Err(fault) => return (out, Err(fault)),
    }
    (out, Ok(()))
}

fn deleted(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            members.remove("tenant_id");
            members.values_mut().for_each(|inner| *inner = deleted(inner.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| *inner = deleted(inner.take())),
        _ => {}
    }
    value
}
