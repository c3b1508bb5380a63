//! Models by themselves: which there are and who uses them, what one is, and one brought without a version.

use std::collections::BTreeMap;
use std::fs::File;

use cvs_store::{BlobId, RelPath, StoreError};
use serde::Serialize;

use super::event::{Event, Why};
use super::fetch::Fetcher;
use super::options::LockOptions;
use super::{Workspace, jobs, store_error};
use crate::error::{Origin, Problem, SpecError, VersionsError};
use crate::model_file::{self, ModelInfo};
use crate::source::SourceError;
use crate::spec::{LockedModel, ModelSource, ModelSpec, Part, Spec, StaleReason, VersionId};

/// A model that versions have, or one that is wanted and not fetched yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KnownModel {
    /// Its bytes; none while they are not known.
    pub blake3: Option<BlobId>,
    /// Their sha256, in digits.
    pub sha256: Option<String>,
    /// How many.
    pub size: Option<u64>,
    /// Whether the store has them.
    pub present: bool,
    /// Who uses it, as what, and from where.
    pub uses: Vec<ModelUse>,
}

/// One use of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelUse {
    /// The version.
    pub version: VersionId,
    /// Its file in the view.
    pub path: String,
    /// Its source, without secrets.
    pub source: String,
}

/// Models, and the specs that could not be asked for theirs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KnownModels {
    /// The models, by size, the largest first.
    pub models: Vec<KnownModel>,
    /// The versions whose specs cannot be read, and why.
    pub unread: Vec<(String, String)>,
}

impl Workspace {
    /// The models of one version in the order of its spec.
    pub fn models_of(&self, id: &VersionId) -> Result<Vec<KnownModel>, VersionsError> {
        let document = self.read(id)?;
        let spec = document.spec();
        spec.models.iter().map(|model| self.known(id, spec, model)).collect()
    }

    /// The models of all versions, each content once.
    pub fn all_models(&self) -> Result<KnownModels, VersionsError> {
        let mut all = KnownModels::default();
        let mut by_blob: BTreeMap<BlobId, KnownModel> = BTreeMap::new();
        for id in self.versions().list()? {
            let models = match self.models_of(&id) {
                Ok(models) => models,
                Err(VersionsError::Spec(error)) => {
                    all.unread.push((id.to_string(), error.to_string()));
                    continue;
                }
                Err(error) => return Err(error),
            };
            for model in models {
                match model.blake3 {
                    Some(blob) => match by_blob.get_mut(&blob) {
                        Some(known) => known.uses.extend(model.uses),
                        None => drop(by_blob.insert(blob, model)),
                    },
                    None => all.models.push(model),
                }
            }
        }
        all.models.extend(by_blob.into_values());
        all.models.sort_by_key(|model| (std::cmp::Reverse(model.size), model.uses[0].path.clone()));
        Ok(all)
    }

    fn known(&self, id: &VersionId, spec: &Spec, model: &ModelSpec) -> Result<KnownModel, VersionsError> {
        let locked = spec.lock.as_ref().and_then(|lock| lock.reusable_model(model));
        let present = match locked {
            Some(locked) => {
                let size =
                    self.store.blob_size(&locked.blake3).map_err(store_error(id, "look at its models"))?;
                size == Some(locked.size)
            }
            None => false,
        };
        let source = locked.map_or(&model.source_text, |locked| &locked.source);
        Ok(KnownModel {
            blake3: locked.map(|locked| locked.blake3),
            sha256: locked.map(|locked| crate::source::hex(&locked.sha256)),
            size: locked.map(|locked| locked.size),
            present,
            uses: vec![ModelUse {
                version: id.clone(),
                path: model.path.to_string(),
                source: crate::source::public_text(source),
            }],
        })
    }

    /// What the model at `path` of a version is, told from its bytes in the store.
    pub fn inspect_model(&self, id: &VersionId, path: &str) -> Result<ModelInfo, VersionsError> {
        let document = self.read(id)?;
        let spec = document.spec();
        let found = spec.models.iter().find(|model| model.path.to_string() == path);
        let model = found.ok_or_else(|| VersionsError::NoSuchPart {
            id: id.clone(),
            found: path.to_owned(),
            parts: spec.models.iter().map(|model| model.path.to_string()).collect(),
        })?;
        let locked = spec.lock.as_ref().and_then(|lock| lock.reusable_model(model));
        let locked = locked.ok_or_else(|| VersionsError::Locked { id: id.clone(), stale: spec.stale() })?;
        self.inspect_blob(id, &locked.blake3, path)
    }

    pub(super) fn inspect_blob(
        &self,
        id: &VersionId,
        blob: &BlobId,
        name: &str,
    ) -> Result<ModelInfo, VersionsError> {
        let failed = store_error(id, "read its models");
        let mut file: File = self.store.open_blob(blob).map_err(&failed)?;
        model_file::inspect(&mut file, name)
            .map_err(|source| failed(StoreError::io("read", self.store.blob_path(blob), source)))
    }

    /// Brings the file of one source into the store, where it stays until garbage is collected: a version that asks
    /// for it before then finds it.
    pub fn fetch_model(&self, source: &str, options: &LockOptions<'_>) -> Result<LockedModel, VersionsError> {
        let parsed = ModelSource::parse(source).map_err(|(found, expected)| {
            let problem = Problem { place: String::new(), found, expected };
            SpecError::Invalid { origin: Origin::Named("the source".to_owned()), problems: vec![problem] }
        })?;
        let name = parsed.file_name().unwrap_or_else(|| "model".to_owned());
        let path = RelPath::new(name)
            .map_err(|error| SourceError::Address { url: error.to_string(), reason: "no name for a file" })?;
        let model = ModelSpec {
            place: String::new(),
            name: None,
            source_text: source.to_owned(),
            source: parsed,
            mirrors: Vec::new(),
            path,
            checksums: Vec::new(),
        };
        let transaction = self.store.begin("fetch a model")?;
        let part = Part::Model(model.path.to_string());
        let late = || (options.events)(Event::Stopping);
        let brought = jobs::with_stop(options.cancel, late, |stop| {
            let fetcher = Fetcher {
                store: &self.store,
                transaction: &transaction,
                events: options.events,
                stop,
                limits: options.limits,
                offline: options.offline,
                intake: options.intake,
            };
            fetcher.model(&part, &Why::Stale(StaleReason::NeverLocked), &model, None)
        });
        let brought = match brought {
            Err(SourceError::Cancelled | SourceError::Store(StoreError::Interrupted)) => {
                return Err(VersionsError::Cancelled);
            }
            brought => brought?,
        };
        transaction.commit()?;
        super::lock::remove_sources(&transaction, options.events);
        Ok(brought)
    }
}
