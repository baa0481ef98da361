/// What follows when pages under a shown buffer turn out to be discarded.
public enum DiscardResponse: String, CaseIterable, Sendable {
  /// The buffer is built again over the guest's new pages, and the old one revoked.
  case republish
  /// It is told and counted, and the picture stays as wrong as it is: for diagnosis.
  case report
  /// Nobody looks. Unsafe: it exists to show that the storm finds what the witness prevents.
  case ignore
}
