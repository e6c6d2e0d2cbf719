//! The API server: all objects are made through it, many at a time, and endpoints changed one by one at a steady pace.

use std::{
    future::Future,
    net::Ipv4Addr,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, stream};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Service},
        discovery::v1::EndpointSlice,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::load::{self, Load};

/// Requests at a time.
const PARALLEL: usize = 64;
/// How often progress is shown.
const INTERVAL: Duration = Duration::from_secs(5);
/// Addresses that endpoints are changed to; each is used once.
const CHANGED: u32 = 0x0c00_0000;

/// Makes all objects.
pub(crate) async fn make(client: Client, load: Load) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in Load::namespaces() {
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        namespaces.create(&PostParams::default(), &namespace).await.context("make a namespace")?;
    }
    let service = |number| create::<Service>(&client, number, load.service(number));
    each("Services", load.services, service).await?;
    let slice = |number| create::<EndpointSlice>(&client, number, load.slice(number));
    each("EndpointSlices", load.services, slice).await
}

fn create<K>(client: &Client, number: u32, object: Value) -> impl Future<Output = Result<()>>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + serde::Serialize
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), &load::namespace(number));
    async move {
        let object = serde_json::from_value(object)?;
        api.create(&PostParams::default(), &object).await.with_context(|| format!("make number {number}"))?;
        Ok(())
    }
}

/// Does this for each number, some at a time, and shows how far it is.
async fn each<F: Future<Output = Result<()>>>(what: &str, count: u32, task: impl Fn(u32) -> F) -> Result<()> {
    let started = Instant::now();
    let (mut done, mut shown) = (0u32, started);
    let mut running = stream::iter(0..count).map(task).buffer_unordered(PARALLEL);
    while let Some(result) = running.next().await {
        result?;
        done += 1;
        if shown.elapsed() > INTERVAL || done == count {
            shown = Instant::now();
            let rate = f64::from(done) / started.elapsed().as_secs_f64();
            eprintln!("  {done} of {count} {what}, {rate:.0} a second");
        }
    }
    Ok(())
}

/// Changes one endpoint of another Service so often in a second, one after the other. Returns how long the API server took on average.
pub(crate) async fn change(client: Client, load: Load, changes: u32, rate: u32) -> Result<Duration> {
    let mut clock = interval(Duration::from_secs(1) / rate.max(1));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let first = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() as u32;
    let mut taken = Duration::ZERO;
    for turn in 0..changes {
        clock.tick().await;
        let number = turn.wrapping_mul(7919) % load.services;
        let address = Ipv4Addr::from(CHANGED | (first.wrapping_mul(100).wrapping_add(turn) & 0x00ff_ffff));
        let patch = load.change_of_slice(number, address, &Timestamp::now().to_string());
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &load::namespace(number));
        let asked = Instant::now();
        slices.patch(&load::slice_name(number), &PatchParams::default(), &Patch::Merge(patch)).await?;
        taken += asked.elapsed();
    }
    Ok(taken / changes.max(1))
}
