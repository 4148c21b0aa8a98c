//! Who is meant: each call to a peer names the region that is to answer it, and no other one does. An address in a
//! configuration may be another region's, and its answers would pass for those of a region that is away.

use cell_core::id::RegionId;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

const TO: &str = "homecell-to";

/// Calls to one region.
pub(crate) type PeerChannel = InterceptedService<Channel, Addressed>;

/// Names the region that is meant.
#[derive(Clone, Debug)]
pub(crate) struct Addressed(MetadataValue<Ascii>);

/// As [`super::channel`], to a region.
///
/// # Errors
/// What is wrong with the address.
pub(crate) fn channel_to(region: RegionId, address: &str) -> Result<PeerChannel, String> {
    let name = MetadataValue::try_from(region.to_string()).map_err(|error| error.to_string())?;
    Ok(InterceptedService::new(super::channel(address)?, Addressed(name)))
}

impl Interceptor for Addressed {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(TO, self.0.clone());
        Ok(request)
    }
}

/// Refuses who means another region than `own`. Who names none is of an older version.
pub(crate) fn only_for(own: RegionId) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request| match request.metadata().get(TO).and_then(|to| to.to_str().ok()) {
        Some(to) if to != own.as_str() => Err(Status::unavailable(format!(
            "this is the agent of {own}, and {to} was asked for: its address is wrong"
        ))),
        _ => Ok(request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_answered_by_the_region_that_it_means() {
        let [north, east] = ["north", "east"].map(|name| RegionId::new(name).unwrap());
        let mut to_north = Addressed(MetadataValue::from_static("north"));
        let call = to_north.call(Request::new(())).unwrap();
        assert!(only_for(north)(Request::new(())).is_ok(), "an older version names nobody");
        let refused = only_for(east)(to_north.call(Request::new(())).unwrap()).unwrap_err();
        assert!(refused.message().contains("the agent of east, and north was asked for"), "{refused}");
        assert!(only_for(north)(call).is_ok());
    }
}
