//! Edits of the lists of a spec: nodes, models, packages. Each edit is checked like a spec that is read, and changes
//! only its place of the text: the order of everything, keys that nobody knows and the spacing stay.
//!
//! A document is edited in memory; [`VersionsDir::edit`] reads, edits and publishes in one, again when somebody else
//! wrote the file in between. Who also wants a lock for it uses `Workspace::edit`.

use serde_json::{Map, Value};

use super::directory::VersionsDir;
use super::document::SpecDocument;
use super::id::VersionId;
use super::model::ReadOptions;
use crate::error::SpecError;

/// How often an edit is made anew because somebody else wrote the file meanwhile.
const ATTEMPTS: u32 = 5;

/// What an edit does to a document.
pub type Edit<'a> = &'a dyn Fn(&mut SpecDocument) -> Result<(), SpecError>;

/// A list of a spec that commands add to and take from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// `custom_nodes`.
    Nodes,
    /// `models`.
    Models,
    /// `python_packages`.
    Packages,
}

impl List {
    /// Its key.
    pub fn key(self) -> &'static str {
        match self {
            Self::Nodes => "custom_nodes",
            Self::Models => "models",
            Self::Packages => "python_packages",
        }
    }
}

impl SpecDocument {
    /// Puts `items` at the end of a list, which is made when there is none. Nothing has changed after an error: the
    /// result breaks a rule of specs then, such as two nodes with one directory.
    pub fn append(&mut self, list: List, items: Vec<Value>) -> Result<(), SpecError> {
        self.edit(|root| match root.get_mut(list.key()) {
            Some(Value::Array(old)) => old.extend(items),
            // A spec that was read has nothing else there than a list or `null`.
            Some(other) => *other = items.into(),
            None => insert_before_lock(root, list.key(), items.into()),
        })
    }

    /// Takes the items at these places out of a list. Places beyond its end are nobody's.
    pub fn remove_at(&mut self, list: List, places: &[usize]) -> Result<(), SpecError> {
        self.edit(|root| {
            if let Some(Value::Array(items)) = root.get_mut(list.key()) {
                let mut place = 0;
                items.retain(|_| {
                    place += 1;
                    !places.contains(&(place - 1))
                });
            }
        })
    }

    /// The items of a list as they are written.
    pub fn items(&self, list: List) -> &[Value] {
        self.root().get(list.key()).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// Sets a key of the document, before its lock when it is new.
    pub fn set(&mut self, key: &str, value: Value) -> Result<(), SpecError> {
        self.edit(|root| match root.get_mut(key) {
            Some(old) => *old = value,
            None => insert_before_lock(root, key, value),
        })
    }
}

fn insert_before_lock(root: &mut Map<String, Value>, key: &str, value: Value) {
    let place = root.keys().position(|key| key == "lock").unwrap_or(root.len());
    root.shift_insert(place, key.to_owned(), value);
}

impl VersionsDir {
    /// Reads a spec, edits it and writes it back, atomically; what `edit` refuses leaves the file as it is. `edit` is
    /// called again when somebody else wrote the file in between.
    pub fn edit(
        &self,
        id: &VersionId,
        options: ReadOptions,
        edit: impl Fn(&mut SpecDocument) -> Result<(), SpecError>,
    ) -> Result<SpecDocument, SpecError> {
        let mut attempt = 1;
        loop {
            let mut document = self.read(id, options)?;
            let before = document.text().to_owned();
            edit(&mut document)?;
            if document.text() == before {
                return Ok(document);
            }
            match self.publish(&mut document) {
                Ok(()) => return Ok(document),
                Err(SpecError::Changed { .. }) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = r#"{
   "schema_version": 2, "x-mine": [1.50, 2],
   "version_id": "v",
   "comfy": {"repo": "https://h/o/c"},
   "models": [
      {"source": "https://h/a.safetensors", "note": "mine"},
      {"source": "https://h/b.safetensors"}
   ]
}
"#;

    fn world() -> (tempfile::TempDir, VersionsDir, VersionId) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("v.json"), TEXT).unwrap();
        let versions = VersionsDir::new(dir.path());
        (dir, versions, VersionId::new("v").unwrap())
    }

    fn edited(edit: impl Fn(&mut SpecDocument) -> Result<(), SpecError>) -> Result<String, SpecError> {
        let (dir, versions, id) = world();
        let result = versions.edit(&id, ReadOptions::default(), edit);
        let text = std::fs::read_to_string(dir.path().join("v.json")).unwrap();
        match result {
            Ok(_) => Ok(text),
            Err(error) => {
                assert_eq!(text, TEXT, "an edit that failed changed the file");
                Err(error)
            }
        }
    }

    #[test]
    fn only_the_place_of_an_edit_changes() {
        let added =
            edited(|document| document.append(List::Models, vec![json!({"source": "https://h/c.bin"})]));
        let expected = TEXT.replace(
            "b.safetensors\"}\n",
            "b.safetensors\"},\n      {\n         \"source\": \"https://h/c.bin\"\n      }\n",
        );
        assert_eq!(added.unwrap(), expected);
        let removed = edited(|document| document.remove_at(List::Models, &[1, 7]));
        assert_eq!(removed.unwrap(), TEXT.replace(",\n      {\"source\": \"https://h/b.safetensors\"}", ""));
        let new_list = edited(|document| document.append(List::Packages, vec!["numpy<2".into()])).unwrap();
        assert_eq!(
            new_list,
            TEXT.replace("   ]\n}", "   ],\n   \"python_packages\": [\n      \"numpy<2\"\n   ]\n}")
        );
    }

    #[test]
    fn what_breaks_a_rule_leaves_the_file_alone() {
        let error = edited(|document| document.append(List::Nodes, vec![json!({"repo": "?"})]));
        assert!(matches!(error, Err(SpecError::Invalid { .. })));
    }

    #[test]
    fn a_new_key_stands_before_the_lock() {
        let mut root = json!({"a": 1, "lock": {}}).as_object().unwrap().clone();
        insert_before_lock(&mut root, "b", json!(2));
        assert_eq!(root.keys().collect::<Vec<_>>(), ["a", "b", "lock"]);
    }

    #[test]
    fn an_edit_that_somebody_overtook_is_made_anew() {
        let (dir, versions, id) = world();
        let path = dir.path().join("v.json");
        let overtaken = std::cell::Cell::new(0);
        let document = versions
            .edit(&id, ReadOptions::default(), |document| {
                if overtaken.replace(overtaken.get() + 1) == 0 {
                    std::fs::write(&path, TEXT.replace("1.50", "1.5")).unwrap();
                }
                document.remove_at(List::Models, &[0])
            })
            .unwrap();
        assert_eq!(overtaken.get(), 2);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, document.text());
        assert!(text.contains("[1.5, 2]") && !text.contains("a.safetensors"), "{text}");
    }
}
