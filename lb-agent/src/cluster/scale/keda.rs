//! KEDA's external scaler: KEDA asks how many replicas a policy wants, and has its HorizontalPodAutoscaler set them.
//!
//! Every replica of the coordinator answers, from the status of the policies in the API: the leader writes it, and all watch it.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use self::proto::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef, external_scaler_server::ExternalScaler,
};
use crate::cluster::allocate::ServiceKey;

/// The contract of `proto/externalscaler.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod proto {
    tonic::include_proto!("externalscaler");
}

/// The replicas that each policy wants; none before the first decision, or if the policy is refused.
pub type Wants = Arc<BTreeMap<ServiceKey, Option<u32>>>;

/// The gRPC service. `scalerMetadata` has `policy` and, where the policy is not in the ScaledObject's namespace, `namespace`.
#[derive(Clone, Debug)]
pub struct Keda {
    wants: watch::Receiver<Option<Wants>>,
}

impl Keda {
    /// Answers from what is wanted; none while the API has not been read.
    pub const fn new(wants: watch::Receiver<Option<Wants>>) -> Self {
        Self { wants }
    }

    fn answer(&self, asked: Option<&ScaledObjectRef>) -> Result<(String, u32), Status> {
        let key = key(asked)?;
        let wants = self.wants.borrow().clone();
        let wanted = of(wants.as_ref(), &key)?;
        Ok((key.1, wanted))
    }
}

/// The policy that is asked for.
fn key(asked: Option<&ScaledObjectRef>) -> Result<ServiceKey, Status> {
    let asked = asked.ok_or_else(|| Status::invalid_argument("scaledObjectRef is missing"))?;
    let value = |name: &str| asked.scaler_metadata.get(name).filter(|value| !value.is_empty()).cloned();
    let policy = value("policy").ok_or_else(|| {
        Status::invalid_argument("metadata.policy is missing: write the name of a ScalePolicy into the trigger")
    })?;
    Ok((value("namespace").unwrap_or_else(|| asked.namespace.clone()), policy))
}

fn of(wants: Option<&Wants>, key: &ServiceKey) -> Result<u32, Status> {
    let (namespace, name) = key;
    let wants = wants.ok_or_else(|| Status::unavailable("the policies are not known yet"))?;
    let wanted = wants.get(key).ok_or_else(|| {
        Status::not_found(format!(
            "there is no ScalePolicy {namespace}/{name}: correct metadata.policy and metadata.namespace"
        ))
    })?;
    wanted.ok_or_else(|| {
        Status::unavailable(format!("ScalePolicy {namespace}/{name} has not decided: look at its conditions"))
    })
}

#[tonic::async_trait]
impl ExternalScaler for Keda {
    type StreamIsActiveStream = Pin<Box<dyn Stream<Item = Result<IsActiveResponse, Status>> + Send>>;

    async fn is_active(&self, request: Request<ScaledObjectRef>) -> Result<Response<IsActiveResponse>, Status> {
        let (_, wanted) = self.answer(Some(request.get_ref()))?;
        Ok(Response::new(IsActiveResponse { result: wanted > 0 }))
    }

    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        let key = key(Some(request.get_ref()))?;
        self.answer(Some(request.get_ref()))?;
        let mut last = None;
        let answers = WatchStream::new(self.wants.clone()).filter_map(move |wants| {
            // What is not known for a moment is no news.
            let active = of(wants.as_ref(), &key).ok().map(|wanted| wanted > 0);
            let news = active.filter(|active| last != Some(*active));
            last = active.or(last);
            std::future::ready(news.map(|result| Ok(IsActiveResponse { result })))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        let (namespace, name) = key(Some(request.get_ref()))?;
        if let Err(status) = of(self.wants.borrow().as_ref(), &(namespace, name.clone()))
            && status.code() == tonic::Code::NotFound
        {
            return Err(status);
        }
        let spec = MetricSpec { metric_name: name, target_size: 1, target_size_float: 1.0 };
        Ok(Response::new(GetMetricSpecResponse { metric_specs: vec![spec] }))
    }

    async fn get_metrics(&self, request: Request<GetMetricsRequest>) -> Result<Response<GetMetricsResponse>, Status> {
        let (metric_name, wanted) = self.answer(request.get_ref().scaled_object_ref.as_ref())?;
        let value = MetricValue { metric_name, metric_value: wanted.into(), metric_value_float: f64::from(wanted) };
        Ok(Response::new(GetMetricsResponse { metric_values: vec![value] }))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::Code;

    use super::{
        proto::{external_scaler_client::ExternalScalerClient, external_scaler_server::ExternalScalerServer},
        *,
    };

    fn asked(policy: &str) -> ScaledObjectRef {
        let scaler_metadata = [("policy".to_owned(), policy.to_owned())].into();
        ScaledObjectRef { name: "so".into(), namespace: "shop".into(), scaler_metadata }
    }

    fn wants(number: Option<u32>) -> Option<Wants> {
        Some(Arc::new([(("shop".to_owned(), "web".to_owned()), number)].into()))
    }

    /// The contract, by a client over a real connection.
    #[tokio::test]
    async fn keda_is_told_what_a_policy_wants() {
        let (sender, receiver) = watch::channel(None);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder().add_service(ExternalScalerServer::new(Keda::new(receiver)));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let mut keda = ExternalScalerClient::connect(url).await.unwrap();
        let metrics =
            |policy: &str| GetMetricsRequest { scaled_object_ref: Some(asked(policy)), metric_name: "web".into() };
        assert_eq!(keda.get_metrics(metrics("web")).await.unwrap_err().code(), Code::Unavailable, "nothing is known");
        sender.send_replace(wants(None));
        assert_eq!(keda.get_metrics(metrics("web")).await.unwrap_err().code(), Code::Unavailable, "nothing is decided");
        let spec = keda.get_metric_spec(asked("web")).await.unwrap().into_inner().metric_specs;
        assert_eq!((spec.len(), spec[0].metric_name.as_str(), spec[0].target_size), (1, "web", 1));
        sender.send_replace(wants(Some(4)));
        let values = keda.get_metrics(metrics("web")).await.unwrap().into_inner().metric_values;
        assert_eq!((values.len(), values[0].metric_value, values[0].metric_value_float), (1, 4, 4.0));
        assert!(keda.is_active(asked("web")).await.unwrap().into_inner().result);
        for code in [
            keda.get_metrics(metrics("gone")).await.unwrap_err().code(),
            keda.get_metric_spec(asked("gone")).await.unwrap_err().code(),
            keda.is_active(asked("gone")).await.unwrap_err().code(),
            keda.stream_is_active(asked("gone")).await.unwrap_err().code(),
        ] {
            assert_eq!(code, Code::NotFound, "never 0");
        }
        let nobody = ScaledObjectRef { namespace: "shop".into(), ..ScaledObjectRef::default() };
        assert_eq!(keda.is_active(nobody).await.unwrap_err().code(), Code::InvalidArgument);
        let mut active = keda.stream_is_active(asked("web")).await.unwrap().into_inner();
        assert!(active.next().await.unwrap().unwrap().result);
        for number in [Some(5), None, Some(0)] {
            sender.send_replace(wants(number));
        }
        assert!(!active.next().await.unwrap().unwrap().result, "only what is news");
    }
}
