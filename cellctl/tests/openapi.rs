//! The edge and the node agree on what there is.

use std::collections::BTreeSet;

use router::{PROBLEMS, ROUTES, Verb};

#[test]
fn the_router_has_an_entry_for_every_operation_of_the_document_and_for_no_other() {
    let document = region_node::openapi();
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            documented.insert((method.clone(), path.clone()));
        }
    }
    let method = |verb| match verb {
        Verb::Get => "get",
        Verb::Post => "post",
    };
    let routed: BTreeSet<(String, String)> =
        ROUTES.iter().map(|route| (method(route.method).to_owned(), route.path.to_owned())).collect();
    assert_eq!(documented, routed);
}

#[test]
fn the_edge_takes_no_longer_body_than_the_node() {
    assert_eq!(router::Limits::default().body_bytes_max, region_node::BODY_BYTES_MAX as u64);
}

#[test]
fn the_document_names_every_problem_of_the_edge_with_its_status() {
    let document = region_node::openapi().to_string();
    for (name, status, _) in PROBLEMS {
        assert!(document.contains(&format!("- `{name}` ({status}): ")), "{name} {status}");
    }
}
