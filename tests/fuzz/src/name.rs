//! Two deliveries have the same name exactly if they are the same event.

use bytes::Bytes;
use fastrand::Rng;
use mx_job_webhook::JobEvent;
use mx_job_webhook::ledger::EventName;

use crate::job;
use crate::json::Json;

/// The input is a seed of eight bytes, and one or two webhooks with a record separator between them. Any other JSON is
/// put into a field of a webhook without a date.
///
/// Each body has the same name in another layout: with other white space, and its objects' entries in another order.
/// Two bodies, and a body of which one thing is changed, have the same name exactly if the reference says so. Names
/// are equal exactly if their texts are, and a text reads as its name.
pub(crate) fn check(input: &[u8]) {
    let Some((seed, bodies)) = input.split_first_chunk() else {
        return;
    };
    let random = &mut Rng::with_seed(u64::from_le_bytes(*seed));
    let mut known = Vec::new();
    for body in bodies.split(|byte| *byte == 0x1e).take(2) {
        let Some((json, key)) = webhook(body) else {
            continue;
        };
        let name = name(&laid_out(&json, random));
        known.push((key, name));
        let mut changed = json;
        change(&mut changed, random);
        known.extend(key_of(&changed).map(|key| (key, self::name(&laid_out(&changed, random)))));
    }
    for (key, name) in &known {
        let text = name.to_string();
        assert_eq!(text.parse().as_ref(), Ok(name));
        for (other_key, other) in &known {
            assert_eq!(key == other_key, name == other, "{name:?} {other:?}");
            assert_eq!(name == other, text == other.to_string());
        }
    }
}

/// What distinguishes events: the job, its status, and its date or else all of the body.
#[derive(PartialEq)]
enum Version {
    UpdatedAt(job::Moment),
    Body(Json),
}

type Key = (String, String, Version);

/// Returns the webhook of a part of the input. Its name is the same as in the layout of the input.
fn webhook(body: &[u8]) -> Option<(Json, Key)> {
    let json = job::document(body)?;
    if let Some(key) = key_of(&json) {
        let written = EventName::of(
            &JobEvent::decode(Bytes::copy_from_slice(body)).expect("the reference reads it"),
        );
        assert_eq!(written, name(&laid_out(&json, &mut Rng::with_seed(0))));
        return Some((json, key));
    }
    let text = |text: &str| format!("\"{text}\"");
    let job = vec![
        (text("guid"), Json::String(text("JOB-1"))),
        (text("status"), Json::Number("2".to_owned())),
        (text("new"), json),
    ];
    let json = Json::Object(vec![(text("job"), Json::Object(job))]);
    let key = key_of(&json)?;
    Some((json, key))
}

fn key_of(json: &Json) -> Option<Key> {
    let job = job::read(laid_out(json, &mut Rng::with_seed(0)).as_bytes()).ok()?;
    let version = match job.dates[3] {
        Some(updated_at) => Version::UpdatedAt(updated_at),
        None => Version::Body(sorted(json.clone())),
    };
    Some((job.guid, format!("{:?}", job.status), version))
}

fn name(body: &str) -> EventName {
    EventName::of(&JobEvent::decode(body.to_owned()).expect("the reference reads it"))
}

/// Sorts entries by their keys as they are written. Entries with the same key keep their order.
fn sorted(json: Json) -> Json {
    match json {
        Json::Array(values) => Json::Array(values.into_iter().map(sorted).collect()),
        Json::Object(entries) => {
            let mut entries: Vec<_> = entries
                .into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect();
            entries.sort_by(|(one, _), (other, _)| one.cmp(other));
            Json::Object(entries)
        }
        scalar => scalar,
    }
}

/// Writes a document with random white space, and its entries in random order.
fn laid_out(json: &Json, random: &mut Rng) -> String {
    let mut text = ["", "\u{feff}"][random.usize(..2)].to_owned();
    write(json, random, &mut text);
    text
}

fn write(json: &Json, random: &mut Rng, text: &mut String) {
    let pause = |random: &mut Rng| ["", "", "", " ", "\t", "\r\n"][random.usize(..6)];
    text.push_str(pause(random));
    match json {
        Json::Null => text.push_str("null"),
        Json::Bool(value) => text.push_str(&value.to_string()),
        Json::Number(written) | Json::String(written) => text.push_str(written),
        Json::Array(values) => {
            text.push('[');
            text.push_str(pause(random));
            for (at, value) in values.iter().enumerate() {
                text.push_str(if at > 0 { "," } else { "" });
                write(value, random, text);
            }
            text.push(']');
        }
        Json::Object(entries) => {
            text.push('{');
            text.push_str(pause(random));
            for (at, (key, value)) in shuffled(entries, random).into_iter().enumerate() {
                text.push_str(if at > 0 { "," } else { "" });
                text.push_str(pause(random));
                text.push_str(key);
                text.push_str(pause(random));
                text.push(':');
                write(value, random, text);
            }
            text.push('}');
        }
    }
    text.push_str(pause(random));
}

/// Returns the entries in random order. Entries with the same key keep theirs.
fn shuffled<'a>(entries: &'a [(String, Json)], random: &mut Rng) -> Vec<&'a (String, Json)> {
    let mut shuffled: Vec<_> = entries.iter().collect();
    random.shuffle(&mut shuffled);
    let mut taken = Vec::new();
    for place in &mut shuffled {
        let mut same = entries.iter().filter(|(key, _)| *key == place.0);
        let before = taken.iter().filter(|key| **key == place.0).count();
        taken.push(place.0.clone());
        *place = same.nth(before).expect("each place has its entry");
    }
    shuffled
}

/// Changes one thing of a document, or nothing.
fn change(json: &mut Json, random: &mut Rng) {
    let count = match json {
        Json::Array(values) => values.len(),
        Json::Object(entries) => entries.len(),
        _ => 0,
    };
    let at = random.usize(..count.max(1));
    let goes_in = count > 0 && random.u8(..4) > 0;
    match json {
        Json::Array(values) if goes_in => change(&mut values[at], random),
        Json::Object(entries) if goes_in => change(&mut entries[at].1, random),
        Json::Array(values) => match random.u8(..4) {
            0 if count > 0 => _ = values.remove(at),
            1 if count > 0 => values.rotate_left(at),
            2 => *json = Json::Array(vec![json.clone()]),
            _ => values.insert(at, Json::Null),
        },
        Json::Object(entries) => match random.u8(..4) {
            0 if count > 0 => _ = entries.remove(at),
            1 if count > 0 => entries.push(entries[at].clone()),
            2 if count > 0 => entries[at].0.insert(1, 'a'),
            _ => entries.push(("\"b\"".to_owned(), Json::Array(Vec::new()))),
        },
        Json::Number(written) => match random.u8(..3) {
            0 => written.push_str(if written.contains(['.', 'e', 'E']) {
                "0"
            } else {
                ".0"
            }),
            1 => *json = Json::String(format!("\"{written}\"")),
            _ => written.push('1'),
        },
        Json::String(written) => match random.u8(..3) {
            // Another notation of the same text, where the text begins with a character of ASCII.
            0 => match written.as_bytes()[1] {
                b'"' | b'\\' => {}
                byte if byte.is_ascii() => written.replace_range(1..2, &format!("\\u{byte:04x}")),
                _ => {}
            },
            1 => written.insert(written.len() - 1, ' '),
            _ => written.insert_str(1, "\\ud83d"),
        },
        Json::Bool(value) => *value = !*value,
        Json::Null => *json = Json::Bool(false),
    }
}
