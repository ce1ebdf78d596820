//! The country of a client address, from a database in MaxMind's format.
//!
//! # Meaning
//! `country.iso_code` of the address' network, else the country that it is registered in. An address that the database doesn't know has none.
//!
//! # Faults
//! A file is checked from its first to its last byte when it is read, and refused when it is corrupt or has no countries; the one before it serves on.
//! A look-up that fails all the same has no country.
//!
//! # Cost
//! The file is held in memory. A look-up walks at most 128 nodes and allocates nothing.

use crate::Error;
use maxminddb::{PathElement, Reader, WithinOptions};
use std::net::IpAddr;
use std::path::Path;

/// Networks that are looked at for a country before a database is held to have none. The first of a database are often reserved.
const SAMPLE: usize = 10_000;

/// A database of countries.
pub(crate) struct GeoIp(Reader<Vec<u8>>);

impl GeoIp {
    /// Reads and checks a file.
    pub(crate) fn read(path: &Path) -> Result<GeoIp, Error> {
        let wrong = |message: String| Error::Config(format!("{}: {message}", path.display()));
        let bytes = std::fs::read(path)
            .map_err(|error| wrong(format!("cannot read the country database ({error}); check the path and its permissions")))?;
        GeoIp::of(bytes).map_err(wrong)
    }

    /// Checks the bytes of a file. The error says what is wrong and what to do.
    pub(crate) fn of(bytes: Vec<u8>) -> Result<GeoIp, String> {
        let corrupt = |error| format!("not a sound MaxMind database ({error}); fetch the file again");
        let reader = Reader::from_source(bytes).map_err(corrupt)?;
        reader.verify().map_err(corrupt)?;
        let kind = reader.metadata().database_type.clone();
        let geo = GeoIp(reader);
        let mut countries = false;
        for found in geo.0.networks(WithinOptions::default()).map_err(corrupt)?.take(SAMPLE) {
            countries |= code(&found.map_err(corrupt)?).is_some();
        }
        if countries { Ok(geo) } else { Err(format!("a {kind:?} database has no countries; use one of countries or cities")) }
    }

    /// Two letters in upper case.
    pub(crate) fn country(&self, address: IpAddr) -> Option<[u8; 2]> {
        code(&self.0.lookup(address.to_canonical()).ok()?)
    }
}

fn code(found: &maxminddb::LookupResult<'_, Vec<u8>>) -> Option<[u8; 2]> {
    ["country", "registered_country"].into_iter().find_map(|field| {
        let code: &str = found.decode_path(&[PathElement::Key(field), PathElement::Key("iso_code")]).ok()??;
        let code: [u8; 2] = code.as_bytes().try_into().ok()?;
        code.iter().all(u8::is_ascii_uppercase).then_some(code)
    })
}
