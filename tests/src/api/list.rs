//! Lists in pages.

use serde_json::{Value, json};

use super::{
    Answer, Fault, Refusal, Resource, State, request::Asked, selector::Selector, store::Store,
    token::Token,
};

pub(super) fn answer(
    state: &State,
    asked: &Asked,
    resource: Resource,
    fault: Option<&Fault>,
) -> Answer {
    page(state, asked, resource, fault).unwrap_or_else(|refusal| refusal.answer())
}

fn page(
    state: &State,
    asked: &Asked,
    resource: Resource,
    fault: Option<&Fault>,
) -> Result<Answer, Refusal> {
    let (store, selector) = (&state.store, Selector::of(asked, resource)?);
    let token = match asked.get("continue") {
        "" => None,
        text => Some(Token::parse(text).map_err(|why| Refusal::bad_token(&why))?),
    };
    let version = match (&token, fault) {
        (Some(token), _) => token.version,
        (None, Some(Fault::Stale(version))) => (*version).max(store.compacted()),
        (None, _) => fresh_enough(store, asked)?,
    };
    let objects = store.at(resource, version).ok_or_else(Refusal::old_token)?;
    let start = token.map_or_else(String::new, |token| token.start);
    let mut selected =
        objects.iter().filter(|(key, object)| **key > start && selector.selects(object)).peekable();
    let limit = asked.get("limit").parse().ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let limit = limit.min(state.longest_page.unwrap_or(usize::MAX));
    let mut items = Vec::new();
    let mut last = "";
    while items.len() < limit
        && let Some((key, object)) = selected.next()
    {
        items.push(item(object));
        last = key;
    }
    let (api_version, kind) = resource.kind();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if selected.peek().is_some() {
        metadata["continue"] = json!(Token { version, start: last.to_owned() }.text());
        // With a selector the server does not count.
        if asked.get("labelSelector").is_empty() && asked.get("fieldSelector").is_empty() {
            metadata["remainingItemCount"] = json!(selected.count());
        }
    }
    let list = json!({
        "kind": format!("{kind}List"), "apiVersion": api_version,
        "metadata": metadata, "items": items,
    });
    Ok(Answer::Whole { status: 200, retry_after: None, body: list.to_string() })
}

/// The version that a list or a streaming list shows: the current one, if that is new enough.
pub(super) fn fresh_enough(store: &Store, asked: &Asked) -> Result<u64, Refusal> {
    let text = asked.get("resourceVersion");
    let wanted: u64 = match text {
        "" => 0,
        text => text.parse().map_err(|_| Refusal::bad_version(text))?,
    };
    match asked.get("resourceVersionMatch") {
        "Exact" => Ok(wanted),
        _ if wanted > store.version() => Err(Refusal::too_large(wanted, store.version())),
        _ => Ok(store.version()),
    }
}

/// The objects of a list have no kind; the list has it.
fn item(object: &Value) -> Value {
    let mut item = object.clone();
    if let Some(fields) = item.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    item
}
