//! One object as a watch hands it out. It is decoded while its JSON is read, so neither a page of a list nor a queue ever
//! holds raw objects: kube's watcher is generic over what it reads, and this is what it reads.

use std::borrow::Cow;
use std::marker::PhantomData;

use kube::Resource;
use kube::api::{ApiResource, ObjectMeta};
use kube::core::DynamicResourceScope;
use serde::{Deserialize, Deserializer};

use crate::model::Kind;
use crate::source::files::served::{self, Served};

/// Says at compile time which kind is being read: items of a list do not say it themselves.
pub(super) trait Of: Send + Sync + 'static {
    const KIND: Kind;
}

/// An object of the kind `K`.
pub(super) struct Seen<K> {
    pub(super) served: Served,
    /// What the watcher asks for: the resource version.
    meta: ObjectMeta,
    kind: PhantomData<K>,
}

impl<K> std::fmt::Debug for Seen<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.served.name)
    }
}

impl<K> Clone for Seen<K> {
    fn clone(&self) -> Self {
        Self { served: self.served.clone(), meta: self.meta.clone(), kind: PhantomData }
    }
}

impl<'de, K: Of> Deserialize<'de> for Seen<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut served = served::read(K::KIND, deserializer)?;
        let meta = ObjectMeta {
            resource_version: Some(std::mem::take(&mut served.resource_version)),
            ..ObjectMeta::default()
        };
        Ok(Self { served, meta, kind: PhantomData })
    }
}

impl<K: Of> Resource for Seen<K> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        (&*resource.kind).into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        (&*resource.group).into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        (&*resource.version).into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        (&*resource.plural).into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
