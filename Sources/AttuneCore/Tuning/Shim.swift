extension LoadedPlugin { package var build: String { "" } }
extension Library { package static var text: String { "\(version.major).\(version.minor).\(version.patch)" } }
